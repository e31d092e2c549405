package smtppool

import (
	"strings"
	"testing"
)

func TestCheckData(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		data string
		ok   bool
	}{
		"mail":                   {mail, true},
		"no line end at the end": {"a: b\r\n\r\nc", true},
		"998 bytes":              {strings.Repeat("x", 998) + "\r\n", true},
		"999 bytes":              {strings.Repeat("x", 999) + "\r\n", false},
		"999 bytes at the end":   {"a\r\n" + strings.Repeat("x", 999), false},
		"empty":                  {"", false},
		"line feed alone":        {"a\nb\r\n", false},
		"line feed first":        {"\na\r\n", false},
		"carriage return alone":  {"a\rb\r\n", false},
		"carriage return last":   {"a\r\nb\r", false},
		"two carriage returns":   {"a\r\r\n", false},
		"smuggled end":           {"a\n.\r\nMAIL FROM:<x@y>\r\n", false},
		"NUL":                    {"a\x00b\r\n", false},
		"8-bit":                  {"a: 0123456789\r\n\r\ngr\u00fc\u00dfe\r\n", false},
		"8-bit in the last byte": {"1234567\xff", false},
	} {
		if err := checkData([]byte(tt.data)); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckAddress(t *testing.T) {
	t.Parallel()
	for addr, ok := range map[string]bool{
		"ann@customer.test":    true,
		`"a.b"@customer.test`:  true,
		"o'neil+x@sub.test":    true,
		"":                     false,
		"<>":                   false,
		"<ann@customer.test>":  false,
		`"a b"@customer.test`:  false,
		"ann@customer.test\r":  false,
		"a\x00nn@x.test":       false,
		"\u00e4nn@x.test":      false,
		"ann@x.test\nRSET":     false,
		"ann@x.test> NOTIFY=N": false,
		`"evil@evil.example> NOTIFY=NEVER"@customer.example`: false,
		strings.Repeat("a", 250) + "@x.test":                 false,
	} {
		if err := checkAddress("recipient", addr); (err == nil) != ok {
			t.Errorf("%q: %v", addr, err)
		}
	}
}
