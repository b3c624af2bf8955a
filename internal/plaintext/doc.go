// Package plaintext has what is shared by everything that reads or writes text: how a
// list in a file is read line by line, and how strange characters are shown.
//
// Of this project it imports only what the wire calls a token (h1).
package plaintext
