package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	bom, trailing, empty, other := object+".bom", object+".trailing", object+".empty", object+".other"
	for name, text := range map[string]string{
		bom: "\ufeff" + `{"Name":"GOOD.test.","DKIMHost":"s1._domainkey.good.test"}`, trailing: `{"DKIMHost":"s1._domainkey.good.test"} x`,
		empty: `{"ID":1}`, other: `{"Name":"weak.test","DKIMHost":"s1._domainkey.weak.test"}`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
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
		{name: "watch too often", args: dns("good.test", "-watch", "1ns"), code: exitUsage, stderr: "-watch 1ns is shorter than 1s"},
		{name: "watch without a unit", args: dns("good.test", "-watch", "5"), code: exitUsage, stderr: "a time has a unit, such as 30s"},
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
		{name: "empty resolver", args: []string{"dnscheck", "good.test", "-resolver", ""}, code: exitUsage, stderr: "-resolver is empty"},
		{name: "empty selector", args: dns("good.test", "-selector="), code: exitUsage, stderr: "-selector is empty"},
		{name: "empty file name", args: dns("good.test", "-postmark", ""), code: exitUsage, stderr: "-postmark is empty"},
		{name: "no selector behind the domain", args: dns("good.test="), code: exitUsage, stderr: "no selector behind the ="},
		{name: "two selectors", args: dns("good.test=s1", "-selector", "s2"), code: exitUsage, stderr: "two selectors for good.test"},
		{name: "the same selector twice", args: dns("good.test=s1", "-selector", "s1"), out: "good.test: ready to send"},
		{name: "the same selector as a whole host", args: dns("good.test=s1", "-selector", "S1._domainkey.good.test"), out: "good.test: ready to send"},
		{name: "key without selector", args: dns("good.test", "-dkim", key), code: exitUsage, stderr: "-dkim needs the selector"},
		{name: "key of several", args: dns("good.test=s1", "weak.test=s1", "-dkim", key), code: exitUsage, stderr: "-dkim takes one domain"},
		{name: "object of several", args: dns("good.test", "weak.test", "-postmark", object), code: exitUsage, stderr: "-postmark takes one domain"},
		{name: "Return-Path of several", args: dns("good.test", "weak.test", "-return-path", "pm.good.test"), code: exitUsage, stderr: "-return-path takes one domain"},
		{name: "object and selector", args: dns("good.test", "-selector", "s1", "-postmark", object), code: exitUsage, stderr: "-postmark and -selector"},
		{name: "object and selector behind the domain", args: dns("good.test=s1", "-postmark", object), code: exitUsage, stderr: `-postmark and "good.test=s1"`},
		{name: "object and Return-Path", args: dns("good.test", "-return-path", "pm.good.test", "-postmark", object), code: exitUsage, stderr: `-return-path "pm.good.test": is not what Postmark.ReturnPathDomain names`},
		{name: "object of another domain", args: dns("good.test", "-postmark", other), code: exitUsage, stderr: `-postmark: Name "weak.test": is another domain than the one to be checked, "good.test"`},
		{name: "object and the same Return-Path", args: dns("good.test", "-return-path", "PM-Bounces.good.test.", "-postmark", object), out: "good.test: ready to send"},
		{name: "object with a byte order mark", args: dns("good.test", "-postmark", bom), out: "good.test: ready to send"},
		{name: "object and more", args: dns("good.test", "-postmark", trailing), code: exitUsage, stderr: "holds no JSON object"},
		{name: "object of something else", args: dns("good.test", "-postmark", empty), code: exitUsage, stderr: "holds none of the fields"},
		{name: "names the flag for the key", args: dns("good.test=s1", "-dkim", "garbage"), code: exitUsage, stderr: `dnscheck: -dkim "garbage"`},
		{name: "names the flag for the resolver", args: []string{"dnscheck", "good.test", "-resolver", "somewhere"}, code: exitUsage, stderr: "dnscheck: -resolver"},
		{name: "names the flag for the reports", args: dns("good.test", "-reports", "x"), code: exitUsage, stderr: `dnscheck: -reports "x"`},
		{name: "names the flag for the profile", args: dns("good.test", "-profile", "x"), code: exitUsage, stderr: `dnscheck: -profile "x"`},
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

// A wrong setting is said once, however many domains there are.
func TestRunSettingOnce(t *testing.T) {
	t.Parallel()
	var out, stderr bytes.Buffer
	code := run(t.Context(), []string{"dnscheck", "-resolver", "127.0.0.1:1", "-cache-only", "-profile", "x", "good.test", "bad.test"}, &out, &stderr)
	if n := strings.Count(stderr.String(), "no such profile"); code != exitUsage || n != 1 {
		t.Errorf("exit code %d, said %d times:\n%s", code, n, &stderr)
	}
}

// A watch that ends before its first check is completed could tell nothing.
func TestRunWatchCutShort(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, stderr bytes.Buffer
	if code := run(ctx, []string{"dnscheck", "-watch", "1s", "-resolver", s.Addr, "-cache-only", "good.test=s1"}, &out, &stderr); code != exitUnknown {
		t.Errorf("exit code %d: %s%s", code, &out, &stderr)
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 {
		return 0, errors.New("the disk is full")
	}
	return len(p), nil
}

// What cannot be written ends the command, a watch as well.
func TestRunWriteFails(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone)
	for _, flags := range [][]string{nil, {"-json"}, {"-watch", "1s"}, {"-watch", "1s", "-json"}} {
		var stderr bytes.Buffer
		args := append([]string{"dnscheck", "-resolver", s.Addr, "-cache-only", "good.test=s1"}, flags...)
		if code := run(t.Context(), args, &failingWriter{}, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "the disk is full") {
			t.Errorf("%v: exit code %d: %s", flags, code, &stderr)
		}
	}
	for _, args := range [][]string{{"version"}, {"help"}, {"dnscheck", "-h"}, {"migrate", "-h"}} {
		var stderr bytes.Buffer
		if code := run(t.Context(), args, &failingWriter{}, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "the disk is full") {
			t.Errorf("%v: exit code %d: %s", args, code, &stderr)
		}
	}
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	if err := writeChanges(&failingWriter{}, at, nil); err == nil {
		t.Error("says nothing of changes that could not be written")
	}
}

// A line says when, how much it matters, and what stood there before.
func TestWriteChanges(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	err := writeChanges(&out, time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), []fluxly.DomainChange{
		{Kind: "ready", Before: "false", After: "true", Text: "acme.test is now ready to send."},
		{Kind: "new", Code: "dkim_missing", After: "fail", Text: "No key."},
		{Kind: "level", Code: "returnpath_missing", Before: "info", After: "fail", Text: "No alias."},
		{Kind: "gone", Code: "dmarc_missing", Before: "fail", Text: "No longer so: No record."},
		{Kind: "record", Name: "acme.test", Before: "v=spf1 \x1b[2J -all", After: "v=spf1 -all", Text: "The record at acme.test changed."},
		{Kind: "record", Name: "acme.test", Before: "v=spf1 -all", Text: "The record at acme.test was removed."},
	})
	want := `2026-03-04T05:06:07Z  [ready] acme.test is now ready to send.
2026-03-04T05:06:07Z  [fail] No key.
2026-03-04T05:06:07Z  [info -> fail] No alias.
2026-03-04T05:06:07Z  [fail -> gone] No longer so: No record.
2026-03-04T05:06:07Z  [record] The record at acme.test changed.
    before: "v=spf1 \x1b[2J -all"
    after:  "v=spf1 -all"
2026-03-04T05:06:07Z  [record] The record at acme.test was removed.
    before: "v=spf1 -all"
`
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s", err, &out)
	}
}

// The first line of a watch has an empty list of changes, not none.
func TestRunWatchJSON(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var first string
	var stderr bytes.Buffer
	out := &watchedBuffer{wrote: func(text string) {
		first = text
		cancel()
	}}
	if code := run(ctx, []string{"dnscheck", "-watch", "1s", "-json", "-resolver", s.Addr, "-cache-only", "good.test=s1"}, out, &stderr); code != exitOK || !strings.HasSuffix(first, `"changes":[]}`+"\n") {
		t.Errorf("exit code %d: %s%s", code, first, &stderr)
	}
}

type watchedBuffer struct{ wrote func(text string) }

func (b *watchedBuffer) Write(p []byte) (int, error) {
	b.wrote(string(p))
	return len(p), nil
}
