package fluxly

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// quickstartEmails are the templates of the example, which are tested here.
func quickstartEmails(t testing.TB) *emailSet {
	t.Helper()
	set, problems := loadEmails(os.DirFS("examples/quickstart/emails"), EmailOptions{})
	for _, p := range problems {
		t.Errorf("%s", p)
	}
	if t.Failed() {
		t.FailNow()
	}
	return set
}

// ann is a person on trial.
func ann() *EmailData {
	return &EmailData{
		Profile: EmailProfile{
			ID: "usr_1", ExternalID: "user_42",
			Traits: Traits{
				"email": "ann@acme.test", "first_name": "Ann", "company": "Brown & Sons",
				"trial_ends_at": "2026-05-17T09:00:00Z",
			},
		},
		Event: EmailEvent{
			Name: "signed_up", Properties: Properties{"plan": "trial"},
			Timestamp: time.Date(2026, 5, 3, 9, 0, 0, 0, time.UTC),
		},
		Run: EmailRun{ID: "run_1", Automation: "trial-onboarding", StartedAt: time.Date(2026, 5, 3, 9, 0, 0, 0, time.UTC)},
		Now: time.Date(2026, 5, 14, 9, 0, 0, 0, time.UTC),
	}
}

// mailText is one mail as it stands in a golden file.
func mailText(r rendered) string {
	return "Subject: " + r.Subject + "\n\n=== text ===\n" + r.Text + "\n=== html ===\n" + r.HTML
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	file = filepath.Join("testdata", "emails", file)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run go test -run %s -update to write it", err, t.Name())
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); if that is meant, run go test -run %s -update:\n%s", file, t.Name(), diff)
	}
}

// Scenario M2, first half: each mail of the example is a golden file, so that
// a changed layout shows in all of them.
func TestEmailGolden(t *testing.T) {
	t.Parallel()
	set := quickstartEmails(t)
	want := []string{"extend-trial", "first-project", "first-project-nudge", "upgrade", "welcome"}
	if diff := cmp.Diff(want, set.names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for _, name := range set.names() {
		r, err := set.render(name, ann())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		golden(t, name+".golden", mailText(r))
	}
}
