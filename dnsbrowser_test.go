package fluxly

import (
	"bytes"
	"fmt"
	"html"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

// chromium runs the browser without a window, without a network, and with a
// profile that goes away with the test.
func chromium(t *testing.T, args ...string) []byte {
	t.Helper()
	browser := os.Getenv("FLUXLY_TEST_CHROMIUM")
	if browser == "" {
		t.Skip("no browser: FLUXLY_TEST_CHROMIUM is not set; it names a Chromium")
	}
	args = append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
		"--user-data-dir=" + t.TempDir(),
	}, args...)
	cmd := exec.CommandContext(t.Context(), browser, args...)
	cmd.WaitDelay = 10 * time.Second // its children hold the pipes
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	return out.Bytes()
}

// hostilePage is the page of a domain that tries to run scripts in it.
func hostilePage(t *testing.T) string {
	t.Helper()
	evil := `<script>document.title='owned'</script><img src=x onerror="document.title='owned'">`
	s := dnstest.Start(t, zone("-_dmarc.acme.test TXT", fmt.Sprintf("_dmarc.acme.test TXT %q", "v=DMARC1; p="+evil), fmt.Sprintf("acme.test TXT %q", "v=spf1 "+evil+" -all")))
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	return page(t, r)
}

func page(t *testing.T, r *DomainReport) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The page in a real browser: everything is on it, nothing of it runs, and at
// the width of a telephone nothing sticks out.
func TestBrowser(t *testing.T) {
	t.Parallel()
	pages := map[string]string{"broken": page(t, brokenReport(t)), "crowded": page(t, crowdedReport(t)), "hostile": hostilePage(t)}
	dir := t.TempDir()
	write := func(t *testing.T, name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "file://" + path
	}
	t.Run("as it is", func(t *testing.T) {
		t.Parallel()
		for name, text := range pages {
			dom := string(chromium(t, "--dump-dom", write(t, name+".html", text)))
			if !strings.Contains(dom, "<title>acme.test: domain check</title>") || strings.Contains(dom, "<script") || strings.Contains(dom, "<img") {
				t.Errorf("%s: a script ran, or the page is not there:\n%s", name, dom)
			}
			for _, part := range []string{`class="item `, `class="areas"`, `class="verdict `} {
				if got, want := strings.Count(dom, part), strings.Count(text, part); got != want {
					t.Errorf("%s: %d of %s in the browser, %d in the page", name, got, part, want)
				}
			}
			if got, want := strings.Count(dom, `class="cost`), strings.Count(text, `class="cost`); got != want || name == "crowded" && got == 0 {
				t.Errorf("%s: %d terms of the tree in the browser, %d in the page", name, got, want)
			}
		}
	})
	t.Run("narrow and wide", func(t *testing.T) {
		t.Parallel()
		// Frames of the same origin may be measured from outside; the pages
		// themselves run no script.
		var frames strings.Builder
		for name, text := range pages {
			for _, width := range []int{320, 480, 1000} {
				fmt.Fprintf(&frames, `<iframe title="%s %d" width="%d" height="400" style="border:0" srcdoc="%s"></iframe>`, name, width, width, html.EscapeString(text))
			}
		}
		outer := `<!DOCTYPE html><body>` + frames.String() + `<pre></pre><script>onload=()=>{document.querySelector("pre").textContent=[...document.querySelectorAll("iframe")].map(f=>{let e=f.contentDocument.documentElement;return "measured "+f.title+" "+f.clientWidth+" "+e.scrollWidth+" "+e.scrollHeight}).join("\n")}</script>`
		dom := string(chromium(t, "--dump-dom", "--virtual-time-budget=10000", write(t, "frames.html", outer)))
		_, dom, _ = strings.Cut(dom, "<pre>")
		dom, _, _ = strings.Cut(dom, "</pre>")
		n := 0
		for line := range strings.Lines(dom) {
			f := strings.Fields(line)
			if len(f) < 6 || f[0] != "measured" {
				continue
			}
			n++
			width, _ := strconv.Atoi(f[3])
			scroll, _ := strconv.Atoi(f[4])
			height, _ := strconv.Atoi(f[5])
			if scroll > width || width == 0 || height < 400 {
				t.Errorf("%s at %s: %d wide of %d, %d high", f[1], f[2], scroll, width, height)
			}
		}
		if n != 3*len(pages) {
			t.Errorf("%d frames were measured:\n%s", n, dom)
		}
	})
	t.Run("picture", func(t *testing.T) {
		t.Parallel()
		shot := filepath.Join(dir, "shot.png")
		chromium(t, "--window-size=900,1200", "--screenshot="+shot, write(t, "shot.html", pages["broken"]))
		data, err := os.ReadFile(shot)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		// The labels and edges of what is to be mended are red, and most of
		// the page is white.
		red, white, all := 0, 0, 0
		for y := range img.Bounds().Dy() {
			for x := range img.Bounds().Dx() {
				r, g, b, _ := img.At(x, y).RGBA()
				all++
				switch {
				case r>>8 == 0xb4 && g>>8 == 0x23 && b>>8 == 0x18:
					red++
				case r>>8 == 0xff && g>>8 == 0xff && b>>8 == 0xff:
					white++
				}
			}
		}
		if red < 2000 || white < all/2 || white == all {
			t.Errorf("of %d points %d are red and %d white", all, red, white)
		}
	})
}
