// Package failure has what can go wrong with a request: status, Proxy-Status (RFC 9209),
// whom it is charged to, and a sentence for people.
//
// Of finds the failure of an error. What is no failure itself says which one it means by
// a method Failure; engines, which must not know this package, are known here.
//
// It imports engines, descriptors, and nothing above.
package failure
