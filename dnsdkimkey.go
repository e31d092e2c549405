package fluxly

import (
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/getfluxly/fluxly/internal/taglist"
)

type dkimProblem struct{ code, text, fix string }

type dkimKeyRecord struct {
	kind     string // "rsa", "ed25519", or as written
	bits     int
	p        string // without white space
	revoked  bool
	testing  bool
	strict   bool // t=s: the signing identity must be the domain itself
	problems []dkimProblem
}

// parseDKIMKey reads a key record (RFC 6376 section 3.6.1, RFC 8301 and RFC
// 8463).
func parseDKIMKey(text string) (k dkimKeyRecord) {
	bad := func(code, format string, args ...any) {
		k.problems = append(k.problems, dkimProblem{code: code, text: fmt.Sprintf(format, args...)})
	}
	// What panels and copying add is named as such, and read past, so that it
	// does not show up as a dozen other mistakes.
	if strings.Contains(text, `\;`) {
		bad("dkim_syntax", "The key record holds backslashes before its semicolons; the DNS panel wants the value without them.")
		text = strings.ReplaceAll(text, `\;`, ";")
	}
	if t := strings.Trim(text, "\"\u201c\u201d"); t != text {
		bad("dkim_syntax", "The key record holds quotation marks; the DNS panel wants the value without them.")
		text = t
	}
	l := taglist.Parse(text, false)
	for _, f := range l.Faults {
		switch t := f.Tag; {
		case f.Kind == taglist.Empty:
			bad("dkim_empty_tag", "The key record has a stray semicolon at byte %d; some verifiers refuse it.", f.Pos)
			continue
		case f.Kind == taglist.BadValue && !slices.Contains(dkimTags, t):
			bad("dkim_comment", "The tag %s of the key record, which verifiers do not use, has a byte outside of printable ASCII at %d; some refuse the record for it.", clip(t, 40), f.Pos)
			continue
		}
		bad("dkim_syntax", "The key record cannot be read at byte %d: %s.", f.Pos, f.Text)
	}
	if v, ok := l.Get("v"); ok {
		if v.Value != "DKIM1" {
			bad("dkim_version", "The key record says v=%s; it must be v=DKIM1, written exactly so.", clip(v.Value, 20))
		} else if len(l.Tags) > 0 && l.Tags[0].Key != "v" {
			bad("dkim_version", "v=DKIM1 is not the first tag of the key record, so the record is ignored.")
		}
	}
	k.kind = "rsa"
	if v, ok := l.Get("k"); ok {
		k.kind = v.Value
	}
	flags := splitList(l.Value("t"))
	k.testing, k.strict = slices.Contains(flags, "y"), slices.Contains(flags, "s")
	if k.testing {
		k.problems = append(k.problems, dkimProblem{
			"dkim_testing", "The key is marked as a test (t=y), so receivers may ignore its signatures.", "Remove y from t= once mail is signed as it should be.",
		})
	}
	if h, ok := l.Get("h"); ok && !slices.Contains(splitList(h.Value), "sha256") {
		bad("dkim_sha1_only", "The key allows only h=%s; mail is signed with sha256.", clip(h.Value, 40))
	}
	if s, ok := l.Get("s"); ok {
		if list := splitList(s.Value); !slices.Contains(list, "*") && !slices.Contains(list, "email") {
			bad("dkim_no_email", "The key is not for mail: s=%s names neither \"email\" nor \"*\".", clip(s.Value, 40))
		}
	}
	p, ok := l.Get("p")
	if !ok {
		bad("dkim_no_p", "The key record has no p= tag, so it holds no key.")
		return k
	}
	k.p = strings.Join(strings.Fields(p.Value), "")
	if k.p == "" {
		k.revoked = true
		return k
	}
	k.public(bad)
	return k
}

// dkimTags are the tags that a verifier goes by.
var dkimTags = []string{"v", "k", "p", "h", "s", "t"}

func (k *dkimKeyRecord) public(bad func(code, format string, args ...any)) {
	der, err := base64.StdEncoding.DecodeString(k.p)
	if err != nil {
		if _, rerr := base64.RawStdEncoding.DecodeString(k.p); rerr == nil {
			bad("dkim_base64", "The p= value is cut: its padding (\"=\") is missing at the end.")
			return
		}
		bad("dkim_base64", "The p= value is not base64; a character may have been lost or added on the way into the DNS panel.")
		return
	}
	switch k.kind {
	case "rsa":
		key, ok := parseRSA(der)
		if !ok {
			bad("dkim_not_rsa", "The p= value is base64 but no RSA public key; it is probably cut.")
			return
		}
		k.bits = key.N.BitLen()
		switch {
		case k.bits < 1024:
			bad("dkim_rsa_short", "The RSA key has only %d bits; receivers refuse signatures under 1024.", k.bits)
		case k.bits == 1024:
			bad("dkim_rsa_1024", "The RSA key has 1024 bits, which is usual at Postmark and accepted everywhere.")
		case k.bits > 4096:
			bad("dkim_rsa_long", "The RSA key has %d bits; some receivers check at most 4096.", k.bits)
		}
	case "ed25519":
		if len(der) != ed25519.PublicKeySize {
			bad("dkim_ed25519", "The Ed25519 key has %d bytes instead of %d.", len(der), ed25519.PublicKeySize)
		}
	default:
		bad("dkim_key_type", "The key type k=%s is unknown; receivers know rsa and ed25519.", clip(k.kind, 20))
	}
}

func parseRSA(der []byte) (*rsa.PublicKey, bool) {
	if k, err := x509.ParsePKIXPublicKey(der); err == nil {
		r, ok := k.(*rsa.PublicKey)
		return r, ok
	}
	k, err := x509.ParsePKCS1PublicKey(der)
	return k, err == nil
}

// splitList reads a colon-separated list.
func splitList(s string) []string {
	var out []string
	for v := range strings.SplitSeq(s, ":") {
		if v = strings.TrimSpace(v); v != "" {
			out = append(out, v)
		}
	}
	return out
}
