package dnsmsg

import (
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Whatever comes from the network, reading it ends, and what is taken for the
// answer belongs to the question.
func FuzzParse(f *testing.F) {
	q, err := question(7, "acme.test", TXT, Recursive, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q)
	name := dnsmessage.MustNewName("acme.test.")
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, Response: true},
		Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET}},
	}
	h := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: 300}
	for _, b := range []dnsmessage.ResourceBody{
		&dnsmessage.TXTResource{TXT: []string{"a", "b"}}, &dnsmessage.MXResource{MX: name}, &dnsmessage.CNAMEResource{CNAME: name},
		&dnsmessage.AResource{}, &dnsmessage.AAAAResource{}, &dnsmessage.SOAResource{NS: name, MBox: name},
		&dnsmessage.UnknownResource{Type: 99, Data: []byte{1, 'x'}}, &dnsmessage.UnknownResource{Type: 99, Data: []byte{9, 'x'}},
	} {
		m.Answers = []dnsmessage.Resource{{Header: h, Body: b}}
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		a, cut, ok, err := parse(msg, 7, "acme.test", TXT)
		if !ok && (err != nil || cut || len(a.Answers) > 0) {
			t.Fatalf("%+v, %v, %v", a, cut, err)
		}
		if ok && (len(msg) < 12 || msg[0] != 0 || msg[1] != 7 || msg[2]&0x80 == 0) {
			t.Fatal("took a message that is no reply to the question")
		}
		chain, records := a.Resolve("acme.test", TXT)
		if len(chain) > maxAliases || len(records) > len(a.Answers) {
			t.Fatalf("%v, %v", chain, records)
		}
	})
}
