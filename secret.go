package fluxly

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// Secret holds a token, key or password. It prints as "[redacted]" under
// every fmt verb, in slog, in JSON and as text, also as an unexported field of
// another struct; only [Secret.Reveal] gives the value. The zero Secret is
// empty. It may be copied and used from many goroutines.
type Secret struct {
	// Behind a pointer, so that reflection on a struct that holds a Secret in
	// an unexported field (where fmt cannot call methods) sees an address.
	value *string
}

// NewSecret wraps s.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{value: &s}
}

// Reveal returns the value itself, for the wire.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether there is no value.
func (s Secret) IsZero() bool { return s.value == nil }

// String returns "[redacted]".
func (s Secret) String() string { return redacted }

// Format prints "[redacted]" whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue gives slog "[redacted]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText gives "[redacted]".
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON gives "[redacted]" as a JSON string.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
