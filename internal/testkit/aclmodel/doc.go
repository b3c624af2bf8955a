// Package aclmodel decides about access rules in the simplest way, for tests that compare.
//
// It is test equipment: nothing imports it but tests, bench and soak.
package aclmodel
