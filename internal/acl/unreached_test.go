package acl

import (
	"slices"
	"testing"
)

func TestFindUnreached(t *testing.T) {
	allow := func(subjects ...string) Rule { return Rule{Subjects: subjects, Allow: true} }
	deny := func(subjects ...string) Rule { return Rule{Subjects: subjects} }
	for _, tc := range []struct {
		name  string
		rules []Rule
		want  []Unreached
	}{
		{"all before a name", []Rule{deny("all"), allow("a.example")}, []Unreached{{"acl[1]: allow a.example", "acl[0]: deny all"}}},
		{"all before an address", []Rule{deny("all"), allow("10.0.0.1:80")}, []Unreached{{"acl[1]: allow 10.0.0.1:80", "acl[0]: deny all"}}},
		{"all allowed", []Rule{allow("all"), deny("a.example", "192.0.2.0/24")}, []Unreached{
			{"acl[1]: deny a.example", "acl[0]: allow all"}, {"acl[1]: deny 192.0.2.0/24", "acl[0]: allow all"},
		}},
		{"a wildcard before a name", []Rule{deny("*.x.example"), allow("a.b.X.example", "x.example", "*.c.x.example")}, []Unreached{
			{"acl[1]: allow a.b.X.example", "acl[0]: deny *.x.example"}, {"acl[1]: allow x.example", "acl[0]: deny *.x.example"}, {"acl[1]: allow *.c.x.example", "acl[0]: deny *.x.example"},
		}},
		{"the same name", []Rule{deny("a.example"), allow("a.example", "*.a.example")}, []Unreached{{"acl[1]: allow a.example", "acl[0]: deny a.example"}}},
		{"a wider prefix", []Rule{deny("10.0.0.0/8"), allow("10.1.0.0/16", "10.0.0.1", "10.0.0.1:80", "11.0.0.0/8")}, []Unreached{
			{"acl[1]: allow 10.1.0.0/16", "acl[0]: deny 10.0.0.0/8"}, {"acl[1]: allow 10.0.0.1", "acl[0]: deny 10.0.0.0/8"}, {"acl[1]: allow 10.0.0.1:80", "acl[0]: deny 10.0.0.0/8"},
		}},
		{"a wider prefix that allows", []Rule{allow("0.0.0.0/0"), deny("10.1.0.0/16")}, []Unreached{{"acl[1]: deny 10.1.0.0/16", "acl[0]: allow 0.0.0.0/0"}}},
		{"private", []Rule{deny("private"), allow("10.1.0.0/16")}, []Unreached{{"acl[1]: allow 10.1.0.0/16", "acl[0]: deny private"}}},
		{"part of private", []Rule{deny("10.0.0.0/8"), allow("private")}, nil},
		{"one port", []Rule{deny("192.0.2.1:80"), allow("192.0.2.1", "192.0.2.1:81", "192.0.2.1:80")}, []Unreached{{"acl[1]: allow 192.0.2.1:80", "acl[0]: deny 192.0.2.1:80"}}},
		{"the narrow one first", []Rule{allow("a.x.example", "10.1.0.0/16"), deny("*.x.example", "10.0.0.0/8", "all")}, nil},
		{"the same verdict", []Rule{deny("*.x.example"), deny("a.x.example"), allow("all"), allow("10.0.0.0/8")}, nil},
		{"names and addresses", []Rule{deny("*.x.example"), allow("10.0.0.0/8")}, nil},
		{"mapped", []Rule{deny("10.0.0.0/8"), allow("::ffff:10.1.0.0/112")}, []Unreached{{"acl[1]: allow ::ffff:10.1.0.0/112", "acl[0]: deny 10.0.0.0/8"}}},
	} {
		if got := FindUnreached(tc.rules); !slices.Equal(got, tc.want) {
			t.Errorf("%s:\n got %v\nwant %v", tc.name, got, tc.want)
		}
	}
}
