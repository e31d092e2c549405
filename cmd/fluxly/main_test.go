package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

const key = "k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCjBFkLAXeBawVIGGWH6nX/XALKufcuCSd82weagn5NrkZ4b6sJLam55RQLulX5YRFcL7JsoQmgLvJCvr2a5VpINs98JiYHauMYgkJ2fvqvD9ATa0OP9KGOUfBeLESef1yT93w5Xhcnij3BsfeuVu2g65kG6NDQzCxrrXLCOlvIhwIDAQAB"

const zone = `
good.test NS ns1.good.test
good.test MX 10 mail.good.test
good.test TXT "v=spf1 include:spf.mtasv.net ~all"
s1._domainkey.good.test TXT "` + key + `"
pm-bounces.good.test CNAME pm.mtasv.net
_dmarc.good.test TXT "v=DMARC1; p=reject; rua=mailto:d@good.test"
weak.test MX 10 mail.weak.test
weak.test TXT "v=spf1 include:spf.mtasv.net ?all"
s1._domainkey.weak.test TXT "` + key + `"
pm-bounces.weak.test CNAME pm.mtasv.net
_dmarc.weak.test TXT "v=DMARC1; p=reject; rua=mailto:d@weak.test"
bad.test MX 10 mail.bad.test
spf.mtasv.net TXT "v=spf1 ip4:203.0.113.0/25 -all"
`

func TestRun(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone)
	s.Fail("silent.test", "*", dnstest.Fault{RCode: 2})
	object := filepath.Join(t.TempDir(), "domain.json")
	if err := os.WriteFile(object, []byte(`{"Name":"good.test","ID":36735,"DKIMVerified":true,"DKIMHost":"s1._domainkey.good.test","DKIMTextValue":"`+key+`","ReturnPathDomain":"pm-bounces.good.test"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	dns := func(args ...string) []string {
		return append([]string{"dnscheck", "-resolver", s.Addr, "-cache-only"}, args...)
	}
	tests := []struct {
		name   string
		args   []string
		code   int
		out    string
		stderr string
	}{
		{name: "nothing", code: exitUsage, stderr: "dnscheck"},
		{name: "help", args: []string{"help"}, out: "dnscheck"},
		{name: "version", args: []string{"version"}, out: "fluxly "},
		{name: "unknown command", args: []string{"fly"}, code: exitUsage, stderr: `unknown command "fly"`},
		{name: "command help", args: []string{"dnscheck", "-h"}, out: "Exit code"},
		{name: "command help behind a domain", args: []string{"dnscheck", "good.test", "--help"}, out: "-selector"},
		{name: "JSON and a page", args: dns("good.test", "-json", "-html"), code: exitUsage, stderr: "-json and -html"},
		{name: "JSON and a zone", args: dns("good.test", "-zone", "-json"), code: exitUsage, stderr: "-json and -zone"},
		{name: "a page and a zone", args: dns("good.test", "-html", "-zone"), code: exitUsage, stderr: "-html and -zone"},
		{name: "all three", args: dns("good.test", "-json", "-html", "-zone"), code: exitUsage, stderr: "-json, -html and -zone"},
		{name: "one of them said to be off", args: dns("good.test", "-selector", "s1", "-json", "-html=false"), out: `"ready": true`},
		{name: "watch and a page", args: dns("good.test", "-watch", "1s", "-html"), code: exitUsage, stderr: "-watch and -html"},
		{name: "watch and a zone", args: dns("good.test", "-watch", "1s", "-zone"), code: exitUsage, stderr: "-watch and -zone"},
		{name: "watch nothing", args: dns("good.test", "-watch", "0"), code: exitUsage, stderr: "-watch 0s is not above zero"},
		{name: "watch backwards", args: dns("good.test", "-watch", "-1m"), code: exitUsage, stderr: "-watch -1m0s is not above zero"},
		{name: "no time", args: dns("good.test", "-timeout", "0"), code: exitUsage, stderr: "-timeout 0s is not above zero"},
		{name: "time backwards", args: dns("good.test", "-timeout", "-5s"), code: exitUsage, stderr: "-timeout -5s is not above zero"},
		{name: "watch several", args: dns("good.test", "bad.test", "-watch", "1s"), code: exitUsage, stderr: "-watch takes one domain"},
		{name: "a page of several", args: dns("good.test", "bad.test", "-html"), code: exitUsage, stderr: "-html takes one domain"},
		{name: "no domain", args: []string{"dnscheck"}, code: exitUsage, stderr: "DOMAIN"},
		{name: "bad flag", args: []string{"dnscheck", "-x"}, code: exitUsage, stderr: "-x"},
		{name: "bad domain", args: dns("a b"), code: exitUsage, stderr: `domain "a b"`},
		{name: "bad resolver", args: []string{"dnscheck", "good.test", "-resolver", "somewhere"}, code: exitUsage, stderr: "not an IP address"},
		{name: "bad profile", args: dns("good.test", "-profile", "x"), code: exitUsage, stderr: "no such profile"},
		{name: "bad address", args: dns("good.test", "-ip", "1.2.3"), code: exitUsage, stderr: "not an IP address"},
		{name: "no such file", args: dns("good.test", "-postmark", object+"x"), code: exitUsage, stderr: "no such file"},
		{name: "healthy, flags behind", args: dns("good.test", "-selector", "s1"), out: "good.test: ready to send"},
		{name: "healthy, Postmark's object", args: dns("-postmark", object, "good.test"), out: "good.test: ready to send"},
		{name: "healthy, address", args: dns("good.test", "-selector", "s1", "-ip", "203.0.113.9, 192.0.2.1"), out: "SPF for mail from 203.0.113.9: pass"},
		{name: "quiet", args: dns("good.test", "-selector", "s1", "-quiet")},
		{name: "warnings", args: dns("weak.test", "-selector", "s1"), out: "warn"},
		{name: "warnings, strict", args: dns("weak.test", "-selector", "s1", "-strict"), code: exitFail, out: "warn"},
		{name: "no selector", args: dns("good.test"), code: exitUnknown, out: "no selector was given"},
		{name: "no selector and a warning, strict", args: dns("weak.test", "-strict"), code: exitFail, out: "no selector was given"},
		{name: "broken", args: dns("bad.test", "-selector", "s1"), code: exitFail, out: "not ready to send"},
		{name: "zone", args: dns("bad.test", "-selector", "s1", "-zone"), code: exitFail, out: "_dmarc.bad.test.\t300\tIN\tTXT\t\"v=DMARC1; p=none;"},
		{name: "page", args: dns("bad.test", "-selector", "s1", "-html"), code: exitFail, out: "<!DOCTYPE html>"},
		{name: "several", args: dns("good.test=s1", "bad.test=s1"), code: exitFail, out: "bad.test: not ready"},
		{name: "several, one is no domain", args: dns("good.test=s1", "nonsense"), code: exitUsage, out: "good.test: ready", stderr: "nonsense"},
		{name: "profiles", args: dns("good.test", "-selector", "s1", "-profile", "postmark,bulk-sender,bimi,mta-sts,tls-rpt,dnssec"), out: "DKIM and Return-Path are as Postmark wants them"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out, stderr bytes.Buffer
			if code := run(t.Context(), tt.args, &out, &stderr); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(out.String(), tt.out) || tt.out == "" && out.Len() > 0 {
				t.Errorf("output lacks %q:\n%s", tt.out, &out)
			}
			if !strings.Contains(stderr.String(), tt.stderr) || tt.stderr == "" && stderr.Len() > 0 {
				t.Errorf("standard error lacks %q:\n%s", tt.stderr, &stderr)
			}
		})
	}
}

// The help names each exit code, and what else has a say in it.
func TestHelpExitCodes(t *testing.T) {
	t.Parallel()
	var out, stderr bytes.Buffer
	if code := run(t.Context(), []string{"dnscheck", "-h"}, &out, &stderr); code != exitOK || stderr.Len() > 0 {
		t.Errorf("exit code %d, standard error %q", code, &stderr)
	}
	_, text, _ := strings.Cut(out.String(), "Exit code:")
	text, _, _ = strings.Cut(text, "Flags:")
	for _, want := range []string{"\n  0  ", "\n  1  ", "\n  2  ", "\n  3  ", "-strict", "-watch", "several domains"} {
		if !strings.Contains(text, want) {
			t.Errorf("the help lacks %q:\n%s", want, text)
		}
	}
}

func TestRunJSON(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone)
	var out, stderr bytes.Buffer
	if code := run(t.Context(), []string{"dnscheck", "-json", "-resolver", s.Addr, "-cache-only", "good.test=s1", "bad.test=s1"}, &out, &stderr); code != exitFail {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), &out)
	}
	for i, want := range []bool{true, false} {
		var r fluxly.DomainReport
		if err := json.Unmarshal([]byte(lines[i]), &r); err != nil || r.Ready != want {
			t.Errorf("%v: %v, %v", lines[i], r.Ready, err)
		}
	}
}

// With -watch the changes are printed, and the code is that of the last check.
func TestRunWatch(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, stderr := &watchedBuffer{}, &bytes.Buffer{}
	out.wrote = func(text string) {
		switch {
		case strings.Contains(text, "bad.test: not ready"):
			s.Set(t, strings.ReplaceAll(zone, "good.test", "bad.test"))
		case strings.Contains(text, "bad.test is now ready to send."):
			cancel()
		}
	}
	if code := run(ctx, []string{"dnscheck", "-watch", "1s", "-resolver", s.Addr, "-cache-only", "bad.test=s1"}, out, stderr); code != exitOK {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

type watchedBuffer struct{ wrote func(text string) }

func (b *watchedBuffer) Write(p []byte) (int, error) {
	b.wrote(string(p))
	return len(p), nil
}
