package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
)

// place is somewhere that gives values to names: the environment, or a file of --config.
type place struct {
	name string // of the file; "": the environment
	look func(name string) string
}

// places are in the order in which they count.
type places []place

// find is the value of the first of the names that has one, and where it stands. For a secret, NAME_FILE may name the file
// that holds it, which ends with a line break or not.
func (p places) find(names string, secret bool) (value, from string, err error) {
	for _, place := range p {
		for _, name := range strings.Fields(names) {
			from := strings.TrimPrefix(place.name+": "+name, ": ")
			value := place.look(name)
			path := ""
			if secret {
				path = place.look(name + "_FILE")
			}
			switch {
			case value != "" && path != "":
				return "", "", fmt.Errorf("both %s and %s_FILE are set", from, name)
			case value != "":
				return value, from, nil
			case path != "":
				b, err := os.ReadFile(path)
				if err != nil {
					return "", "", fmt.Errorf("%s_FILE: %w", from, err)
				}
				if value = strings.TrimRight(string(b), "\r\n"); value == "" {
					return "", "", fmt.Errorf("%s_FILE: %s is empty", from, path)
				}
				return value, from + "_FILE", nil
			}
		}
	}
	return "", "", nil
}

// readConfigFile reads lines of the form NAME=VALUE. What it cannot read, and names that mean nothing, are errors: a setting that
// is misspelt would be one that has no effect.
//
// A value ends with its line; blanks around it, and one pair of quotes around that, are not part of it.
func readConfigFile(path string, settings []setting) (place, []error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return place{path, func(string) string { return "" }}, []error{fmt.Errorf("--config: %w", err)}
	}
	known := map[string]bool{}
	for _, s := range settings {
		_, isSecret := s.field.(secret)
		for _, name := range strings.Fields(s.variables) {
			known[name] = s.flag != "config"
			if isSecret {
				known[name+"_FILE"] = true
			}
		}
	}
	var wrong []error
	values := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		var mistake error
		switch _, twice := values[name]; {
		case !ok:
			mistake = errors.New("not of the form NAME=VALUE") // without the line: it may be half a password
		case !known[name]:
			mistake = fmt.Errorf("there is no setting %s; see pgsagaz config", name)
		case twice:
			mistake = fmt.Errorf("%s is there twice", name)
		}
		if mistake != nil {
			wrong = append(wrong, fmt.Errorf("%s, line %d: %w", path, n, mistake))
			continue
		}
		values[name] = unquote(value)
	}
	if err := lines.Err(); err != nil {
		wrong = append(wrong, fmt.Errorf("%s: %w", path, err))
	}
	return place{path, func(name string) string { return values[name] }}, wrong
}

func unquote(s string) string {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		return s[1 : n-1]
	}
	return s
}
