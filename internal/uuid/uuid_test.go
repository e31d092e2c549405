package uuid

import "testing"

func TestPack(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"0190163d-8694-739b-aea5-966c26f8ad91":  true,
		"0190163D-8694-739b-aea5-966c26f8ad91":  false,
		"0190163d-8694-739b-aea5-966c26f8ad9g":  false,
		"0190163d8694739baea5966c26f8ad91":      false,
		"0190163d-8694-739b-aea5-966c26f8ad911": false,
		"":                                      false,
	} {
		var raw [16]byte
		if got := Pack(&raw, text); got != want {
			t.Errorf("%q: packed %v, want %v", text, got, want)
		}
	}
}

// What is packed comes back as it was.
func FuzzPack(f *testing.F) {
	f.Add("0190163d-8694-739b-aea5-966c26f8ad91")
	f.Add("0190163D-8694-739b-aea5-966c26f8ad91")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		var raw [16]byte
		if Pack(&raw, text) && Text(raw[:]) != text {
			t.Errorf("%q comes back as %q", text, Text(raw[:]))
		}
	})
}
