package admin

import (
	"fmt"
	"slices"
	"testing"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/upstream"
)

// ruled is a handler with access rules.
type ruled struct {
	at
	rules acl.Report
}

func (r *ruled) Rules() acl.Report { return r.rules }

// What is wrong is told of all, listed or not, and what is out comes first where not all are
// listed.
func TestOverview_Troubles(t *testing.T) {
	h := reported{selected: selected{&ruled{rules: acl.Report{Rules: []acl.RuleReport{{Hits: 1}, {}}, Defaults: []acl.RuleReport{{}}}}, "h"}}
	well := upstream.Report{Name: "well", Available: 9}
	for i := range 9 {
		well.Members = append(well.Members, upstream.MemberReport{ID: fmt.Sprint("well", i)})
	}
	ill := upstream.Report{Name: "ill"}
	for i := range 3 {
		m := upstream.MemberReport{ID: fmt.Sprint("ill", i)}
		m.Active = health.Down
		ill.Members = append(ill.Members, m)
	}
	ill.Members[2].Admin = health.Maint
	h.Groups = []upstream.Report{well, ill, {Name: "empty"}}
	other := h // a second handler with the same groups
	all := []reported{h, other}
	got := troublesOf(all)
	if got.Out != 2 || got.Never != 4 || !slices.Equal(got.Gone, []string{"ill", "empty"}) {
		t.Errorf("%+v", got)
	}
	ids := func(limit int) (ids []string) {
		list := worstUpstreams(all, limit)
		if list.Total != 12 {
			t.Errorf("%d of %d", limit, list.Total)
		}
		for _, u := range list.Items {
			ids = append(ids, u.ID)
		}
		return ids
	}
	if got, want := ids(4), []string{"ill0", "ill1", "ill2", "well0"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got, want := ids(2), []string{"ill0", "ill1"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := ids(12); got[0] != "well0" || len(got) != 12 {
		t.Errorf("%v", got)
	}
	groups := worstGroups([]reported{h}, 2)
	if groups.Total != 3 || groups.Items[0].Name != "ill" || groups.Items[1].Name != "empty" {
		t.Errorf("%+v", groups)
	}
}
