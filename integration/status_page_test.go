package integration

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pageRowOf selects the row of an upstream in the page.
func pageRowOf(u *scriptedUpstream, state string) string {
	return fmt.Sprintf(`document.querySelector('tr[data-upstream="%s"][data-state="%s"]')`, u.url(), state)
}

// text is the text of what a script selects.
func (b *browser) text(selected string) (s string) {
	b.t.Helper()
	b.eval("("+selected+").innerText", &s)
	return s
}

// In a real browser: what happens to an upstream is shown without a reload of the page, with
// why, who and until when; the browser and axe have nothing to object; no secret is there.
func TestStatusPage(t *testing.T) {
	site := freeAddr(t)
	one, two := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two")
	origin, dead, echo := okOrigin(t), refusedAddr(t), newEchoOrigin(t)
	egress := openLoopback + `
		basic_auth ann s3cr3tpass
		basic_auth <b>bob</b> s3cr3tpass
		session_from user_suffix -session-
		upstreams default {
			upstream ` + strings.Replace(one.url(), "://", "://proxyuser:s3cr3tproxy@", 1) + `
			upstream ` + two.url() + `
			health_check tcp
			health_interval 100ms
			health_fails 1
			health_passes 1
		}
		route default
	`
	load := func(name string) string {
		return plainSite(site, "egress_status /status\n", "server_name "+name+"\n"+egress)
	}
	a := adminAPI{loadWithAdmin(t, "", load("first"))}
	b := openBrowser(t)
	p := &proxy{plain: site}
	c := p.client(t, "h1")
	login := "Basic " + base64.StdEncoding.EncodeToString([]byte("ann-session-s3cr3tsession:s3cr3tpass"))
	ask := func(url string) {
		r := c.newRequest(t, http.MethodGet, url, nil)
		r.Header.Set("Proxy-Authorization", login)
		c.do(t, r)
	}
	ask(origin.URL + "/path?token=s3cr3tquery")
	for range 3 {
		ask("http://" + dead + "/?token=s3cr3tquery")
	}
	resp, standing := c.connect(t, echo.addr, "", http.Header{"Proxy-Authorization": {login}})
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	defer standing.Close()
	alive(t, standing, "a tunnel")

	b.open("http://" + site + "/status/")
	b.until(`document.getElementById("link").textContent === "live"`)
	b.eval("window.mark = 1", nil)
	keepBusyAs(t, p, neturl.UserPassword("ann", "s3cr3tpass"), origin.URL)
	two.down()
	b.until(pageRowOf(two, "down"))
	if why := b.text(pageRowOf(two, "down")); !strings.Contains(why, "■ down") || !strings.Contains(why, "its check failed, since") || !strings.Contains(why, "connection refused") {
		t.Errorf("%s", why)
	}
	b.until(`document.getElementById("sentence").textContent.includes("out of rotation")`)

	var all []steered
	a.get(t, "upstreams?group=default", &all)
	a.order(t, "PATCH", "upstreams/"+all[0].ID, `{"state":"drain","for":"15m","reason":"disk <b>full</b>"}`, nil)
	b.until(pageRowOf(one, "drain"))
	if who := b.text(pageRowOf(one, "drain")); !strings.Contains(who, "◆ drained") || !strings.Contains(who, "taken out by 127.0.0.1: disk <b>full</b>, until ") {
		t.Errorf("%s", who)
	}
	b.until(`document.querySelector("#sentence.bad")`)
	if s := b.text(`document.getElementById("sentence")`); !strings.Contains(s, "Group default has no upstream left") {
		t.Error(s)
	}
	two.up()
	b.until(pageRowOf(two, "up"))
	var mark int
	if b.eval("window.mark", &mark); mark != 1 {
		t.Error("the page was loaded anew")
	}
	if text := b.text("document.getElementById('tunnels')"); !strings.Contains(text, echo.addr) || !strings.Contains(text, "ann") {
		t.Error(text)
	}
	b.checkPage()

	b.eval(`for (const [name, value] of [["user", "ann"], ["target", "`+dead+`"]]) document.querySelector("input[name=" + name + "]").value = value; setTimeout(() => document.querySelector("form").requestSubmit())`, nil)
	b.until("document.getElementById('answer') !== null")
	if answer := b.text("document.getElementById('answer')"); !strings.Contains(answer, "verdict") || !strings.Contains(answer, dead) {
		t.Error(answer)
	}
	b.checkPage()
	var page string
	b.eval("document.documentElement.outerHTML", &page)
	for _, secret := range []string{"s3cr3t", "proxyuser", "<b>", "<script>alert"} {
		if strings.Contains(page, secret) {
			t.Errorf("%s is in the page", secret)
		}
	}
	// A reload of the configuration ends the stream, and the page follows the next one.
	b.until(`document.getElementById("link").textContent === "live"`)
	if err := tryLoad(t, globals{admin: a.addr, grace: "2s", storage: t.TempDir()}.String()+"\n"+load("second")); err != nil {
		t.Fatal(err)
	}
	b.until(`document.getElementById("reload").textContent.includes("upstreams kept 2")`)
}

// checkPage looks for what browsers and people who cannot see well would object to, in
// light and dark, wide and narrow.
func (b *browser) checkPage() {
	b.t.Helper()
	axe := axeCore(b.t)
	for _, look := range []string{"light", "dark"} {
		for _, width := range []int{1200, 360} {
			b.look(look, width, 900)
			var overflow int
			if b.eval("document.documentElement.scrollWidth - innerWidth", &overflow); overflow > 0 {
				b.t.Errorf("%s, %d: the page is %d wider than its window", look, width, overflow)
			}
			if axe == "" {
				continue
			}
			b.eval(axe, nil)
			var found []struct {
				ID, Impact, Help string
				Nodes            []struct{ HTML string }
			}
			b.eval("axe.run().then((r) => r.violations)", &found)
			for _, f := range found {
				if f.Impact == "serious" || f.Impact == "critical" {
					b.t.Errorf("%s, %d: axe: %s %s: %s %+v", look, width, f.Impact, f.ID, f.Help, f.Nodes)
				} else {
					b.t.Logf("%s, %d: axe: %s %s: %s", look, width, f.Impact, f.ID, f.Help)
				}
			}
		}
	}
	for _, c := range b.complaints() {
		b.t.Error(c)
	}
}

// look sets what the reader prefers, and the size of the window.
func (b *browser) look(scheme string, width, height int) {
	b.t.Helper()
	b.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]any{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

// axeCore is the source of axe-core, from npm; "" where that cannot be had.
func axeCore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@4.10.3")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("axe-core cannot be had: %v %s", err, out)
		return ""
	}
	source, err := os.ReadFile(filepath.Join(dir, "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	return string(source) + ";0"
}

// Who is not allowed gets nothing.
func TestStatusPage_Refused(t *testing.T) {
	site := freeAddr(t)
	load := plainSite(site, "egress_status\n", usual)
	loadWithAdmin(t, "servers {\n trusted_proxies static 127.0.0.0/8\n}\n", load)
	for _, c := range []struct {
		field string
		want  int
	}{{"", 200}, {"127.0.0.1", 403}, {"192.0.2.1", 403}, {"127.0.0.1, 192.0.2.1", 403}} {
		for _, path := range []string{"/egress-status/", "/egress-status/page.js"} {
			r, err := http.NewRequest(http.MethodGet, "http://"+site+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.field != "" {
				r.Header.Set("X-Forwarded-For", c.field)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.want || c.want == 403 && resp.ContentLength != 0 {
				t.Errorf("%s %q: %s, %d bytes", path, c.field, resp.Status, resp.ContentLength)
			}
		}
	}
}
