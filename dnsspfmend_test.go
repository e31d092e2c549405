package fluxly

import "testing"

// A text that was meant as SPF is mended without losing those whom it names.
func TestMendNearSPF(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"v=spf1\u00a0include:_spf.example.test -all": "v=spf1 include:_spf.example.test -all",
		"v=spf1include:a.test -all":                  "v=spf1 include:a.test -all",
		"v=spf1,include:a.test,mx,-all":              "v=spf1 include:a.test mx -all",
		"v=spf1\tmx -all":                            "v=spf1 mx -all",
		" v=spf1 mx -all":                            "v=spf1 mx -all",
		"v = spf1 mx -all":                           "v=spf1 mx -all",
		"spf1 ip4:192.0.2.1 ~all":                    "v=spf1 ip4:192.0.2.1 ~all",
		"v=spf1-all":                                 "v=spf1 -all",
		"v=spf1 ptr -all\"":                          "v=spf1 ptr -all",
		"v=spf2":                                     "",
	} {
		if got, _ := mendNearSPF(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
