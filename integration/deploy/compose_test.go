package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose loads the file as `docker compose config` does, with the same code.
func compose(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(root, "docker-compose.yml")}, cli.WithName("pgsagaz"), cli.WithWorkingDirectory(root))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestComposeIsValid(t *testing.T) {
	project := compose(t)
	for _, name := range []string{"postgres", "kafka", "rabbitmq", "redis", "migrate", "worker", "demo", "prometheus", "grafana"} {
		if _, ok := project.Services[name]; !ok {
			t.Errorf("there is no service %s", name)
		}
	}
	for name, s := range project.Services {
		if !strings.Contains(s.Image, ":") || strings.HasSuffix(s.Image, ":latest") {
			t.Errorf("%s: the image %s is not pinned", name, s.Image)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %s beyond this machine", name, port.Published)
			}
		}
		for _, v := range s.Volumes {
			if _, err := os.Stat(v.Source); v.Type == types.VolumeTypeBind && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	path := program(t)
	for _, name := range []string{"migrate", "worker", "demo"} {
		s := project.Services[name]
		if !s.ReadOnly || len(s.CapDrop) != 1 || s.CapDrop[0] != "ALL" || len(s.SecurityOpt) != 1 {
			t.Errorf("%s is not restricted", name)
		}
		env := map[string]string{}
		for k, v := range s.Environment {
			env[k] = *v
		}
		got := settings(t, path, env)
		if s, ok := got["--http-addr"]; ok && name == "worker" && s.Value != ":9464" {
			t.Errorf("the worker answers at %v, where Prometheus does not reach it: set PGSAGAZ_HTTP_ADDR to :9464", s.Value)
		}
		for k := range env {
			if got[k].Flag == "" {
				t.Errorf("%s: nothing reads %s", name, k)
			}
		}
	}
}
