package fluxly_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// golden compares got with a file. FLUXLY_UPDATE=1 writes the file instead;
// read the difference before you commit it.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if os.Getenv("FLUXLY_UPDATE") != "" {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run with FLUXLY_UPDATE=1 to write it", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-file +got):\n%s", path, diff)
	}
}
