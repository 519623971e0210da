package pgengine_test

import (
	"os"
	"strings"
	"testing"
)

// The README's saga is the one that is compiled and run here.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_order_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, saga, ok := strings.Cut(string(example), "// Fulfil reserves")
	if !ok {
		t.Fatal("example_order_test.go has no Fulfil")
	}
	if !strings.Contains(string(readme), "```go\n// Fulfil reserves"+saga+"```") {
		t.Error("the README's saga is not that of example_order_test.go")
	}
}
