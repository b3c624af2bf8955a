package status

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/explain"
)

// This file contains the page as it is first loaded, what it is made of, and its box for
// explain.

//go:embed assets
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"ago": ago, "ahead": ahead, "clock": clock, "stamp": stamp, "bytes": inBytes, "shape": shapeOf, "look": lookOf, "word": wordOf, "reason": reasonOf,
	"ms":  func(seconds any) string { return inSeconds(toFloat(seconds)) },
	"sum": func(a, b float64) float64 { return a + b }, "total": func(a, b int64) float64 { return float64(a + b) },
	"width": func() int { return curveWidth }, "height": func() int { return curveHeight },
}).ParseFS(files, "assets/*.html"))

// asset is a file that the page needs.
type asset struct {
	body       []byte
	kind, etag string
}

var assets = loadAssets()

func loadAssets() map[string]*asset {
	all := make(map[string]*asset)
	for _, name := range []string{"page.css", "page.js", "icon.svg"} {
		body, err := files.ReadFile("assets/" + name)
		if err != nil {
			panic(err) // it is embedded
		}
		hash := sha256.Sum256(body)
		all["/"+name] = &asset{body, mime.TypeByExtension(path.Ext(name)), `"` + hex.EncodeToString(hash[:8]) + `"`}
	}
	return all
}

func (a *asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("Cache-Control", "no-cache")
	h.Set("Etag", a.etag)
	if r.Header.Get("If-None-Match") == a.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	write(w, r, a.body)
}

func write(w http.ResponseWriter, r *http.Request, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // an error is that the client has gone
	}
}

// page is what the page shows.
type page struct {
	*view
	Ask ask
}

func (s *Status) servePage(w http.ResponseWriter, r *http.Request, a ask) error {
	v, err := look()
	if err != nil {
		return err
	}
	_, a.Handlers = admin.Handlers.ByPlace()
	var buf bytes.Buffer
	if err := templates.ExecuteTemplate(&buf, "page.html", page{v, a}); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	write(w, r, buf.Bytes())
	return nil
}

// ask is the box for explain.
type ask struct {
	Handlers []string

	Target, User, Client, Handler string
	Answer, Verdict, Error        string
}

// Asked reports whether something was asked.
func (a ask) Asked() bool { return a.Target != "" }

// Bounds of what is asked, in bytes: of each field, and of all.
const (
	maxAsked = 2048
	maxForm  = 32 << 10
)

// ours refuses what a page of somebody else's sends: names are resolved for an answer.
var ours = http.NewCrossOriginProtection()

// serveAnswer answers what a form asks. It is sent in a body, which stands in no log.
func (s *Status) serveAnswer(w http.ResponseWriter, r *http.Request) error {
	if err := ours.Check(r); err != nil {
		return caddyhttp.Error(http.StatusForbidden, fmt.Errorf("egress_status: %w", err))
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		if _, long := errors.AsType[*http.MaxBytesError](err); long {
			return caddyhttp.Error(http.StatusRequestEntityTooLarge, fmt.Errorf("egress_status: what is asked may have %d bytes", maxForm))
		}
		return caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("egress_status: %w", err))
	}
	return s.servePage(w, r, askedBy(r))
}

// askedBy answers what the form of a request asks.
func askedBy(r *http.Request) (a ask) {
	q := r.PostForm
	a.Target, a.User, a.Client, a.Handler = strings.TrimSpace(q.Get("target")), q.Get("user"), strings.TrimSpace(q.Get("client_ip")), q.Get("handler")
	if !a.Asked() {
		return a
	}
	for _, text := range []string{a.Target, a.User, a.Client, a.Handler} {
		if len(text) > maxAsked {
			a.Error = fmt.Sprintf("a field may have %d bytes", maxAsked)
			return a
		}
	}
	text, verdict, err := a.explain(r.Context())
	if a.Answer, a.Verdict = text, verdict; err != nil {
		a.Error = err.Error()
	}
	a.Target = withoutSecrets(a.Target)
	return a
}

// explainTimeout bounds the DNS questions of an answer.
const explainTimeout = 10 * time.Second

func (a *ask) explain(ctx context.Context) (text, verdict string, err error) {
	h, err := admin.Handlers.Find(a.Handler)
	if err != nil {
		return "", "", err
	}
	asked := &explain.Request{User: a.User, ClientIP: a.Client}
	if strings.Contains(a.Target, "://") {
		asked.URL = a.Target
	} else {
		asked.Target = a.Target
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	e, err := h.Explain(ctx, asked)
	if err != nil {
		return "", "", err
	}
	var out strings.Builder
	if err := e.WriteText(&out); err != nil {
		return "", "", err
	}
	return out.String(), e.Verdict, nil
}

// withoutSecrets is a URL without its password.
func withoutSecrets(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return text
	}
	u.User = nil
	return u.String()
}

// ago is how long a time is past, or ahead, in one unit.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := now.Sub(t).Abs()
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// ahead is when something is to happen.
func ahead(t, now time.Time) string {
	if !t.After(now) {
		return "now"
	}
	return "in " + ago(t, now)
}

func clock(t time.Time) string { return t.Format("15:04:05") }

func stamp(t time.Time) string { return t.Format(time.RFC3339) }

func inBytes(n float64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	i := 0
	for ; n >= 1000 && i < len(units)-1; i++ {
		n /= 1000
	}
	if i == 0 {
		return fmt.Sprintf("%.0f %s", n, units[i])
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}

func inSeconds(s float64) string {
	switch {
	case s <= 0:
		return "–"
	case s < 1:
		return fmt.Sprintf("%.3g ms", s*1000)
	}
	return fmt.Sprintf("%.3g s", s)
}

// state is how a state of an upstream looks, besides its word: colour and shape.
type state struct{ word, look, shape string }

// states are those of package upstream.
var states = map[string]state{
	"up": {"up", levelOK, "●"}, "full": {"full", levelWarn, "▲"}, "overloaded": {"overloaded", levelWarn, "▲"},
	"refusing": {"refuses much", levelWarn, "▲"}, "spared": {"spared", levelWarn, "▲"}, "half_open": {"half-open", levelWarn, "▲"}, "circuit_open": {"circuit open", levelBad, "■"},
	"down": {"down", levelBad, "■"}, "auth_failed": {"credentials refused", levelBad, "■"},
	"drain": {"drained", "off", "◆"}, "maint": {"maintenance", "off", "◆"},
	levelOK: {"well", levelOK, "●"}, levelWarn: {"look here", levelWarn, "▲"}, levelBad: {"trouble", levelBad, "■"},
	"open": {"open", levelBad, "■"}, "closed": {"closed", levelWarn, "▲"},
}

func wordOf(s string) string  { return cmp.Or(states[s].word, s) }
func lookOf(s string) string  { return cmp.Or(states[s].look, levelWarn) }
func shapeOf(s string) string { return cmp.Or(states[s].shape, "▲") }

// reasons are the words for why an upstream is in its state.
var reasons = map[string]string{
	"consecutive_failures": "requests failed in a row", "success_rate": "too many requests failed",
	"suspicion_check_failed": "suspected, and the check that followed failed", "suspicion_other_path": "its destinations answer on another way",
	"credentials_refused": "it refuses our credentials", "probe_passed": "a request passed again", "check_passed": "its check passed",
	"check_failed": "its check failed", "destination_failed": "the destination was at fault", "admin": "the operator",
	"checks_ended": "it is not checked any more",
}

func reasonOf(s string) string { return cmp.Or(reasons[s], s) }
