package dnstest

import (
	"encoding/binary"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
)

// Raw makes a reply to query by hand, for what no builder lets pass: the header
// with flags (the response code in the last four bits), the question, and the
// records of the three sections.
func Raw(query []byte, flags uint16, answers, authority, additional [][]byte) []byte {
	end := 12
	for end < len(query) && query[end] != 0 {
		end += int(query[end]) + 1
	}
	end = min(end+5, len(query)) // the root, type and class
	out := append([]byte(nil), query[:end]...)
	for i, n := range []int{int(flags), 1, len(answers), len(authority), len(additional)} {
		binary.BigEndian.PutUint16(out[2+2*i:], uint16(n))
	}
	for _, section := range [][][]byte{answers, authority, additional} {
		for _, r := range section {
			out = append(out, r...)
		}
	}
	return out
}

// RawRecord is a record of 300 s.
func RawRecord(name []byte, typ dnsmsg.Type, data []byte) []byte {
	out := append([]byte(nil), name...)
	out = binary.BigEndian.AppendUint16(out, uint16(typ))
	out = binary.BigEndian.AppendUint16(out, 1)
	out = binary.BigEndian.AppendUint32(out, 300)
	out = binary.BigEndian.AppendUint16(out, uint16(len(data)))
	return append(out, data...)
}

// RawName is a name of labels, which may hold any byte.
func RawName(labels ...string) (out []byte) {
	for _, l := range labels {
		out = append(append(out, byte(len(l))), l...)
	}
	return append(out, 0)
}

// RawText is the data of a TXT record of one string.
func RawText(s string) []byte { return append([]byte{byte(len(s))}, s...) }

// Asker is the name of the question, as a record of the reply points to it.
var Asker = []byte{0xc0, 12}
