package words

import (
	"iter"
	"regexp"
)

// placeholderName is what counts as a placeholder: a name, or what begins with one of
// Caddy's own, whatever characters follow (a file may have spaces in its name). Other
// text in braces is just text.
var placeholderName = regexp.MustCompile(`^([A-Za-z][^{}\s"']*$|(env|file|system|time|http)\.)`)

// HasPlaceholder reports whether a word of the Caddyfile can be checked only when its
// placeholders are replaced.
func HasPlaceholder(word string) bool {
	for range Placeholders(word) {
		return true
	}
	return false
}

// Placeholders are the names of the placeholders in a text, as Caddy's replacer finds
// them: a brace behind a backslash is none, and a name goes up to the first closing
// brace. What is not replaced there is looked at again from its second character on.
func Placeholders(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := 0; i < len(text); i++ {
			if text[i] != '{' || escaped(text, i) {
				continue
			}
			end := closingBrace(text, i)
			if end < 0 || !placeholderName.MatchString(text[i+1:end]) {
				continue
			}
			if !yield(text[i+1 : end]) {
				return
			}
			i = end
		}
	}
}

// closingBrace is where the placeholder ends that begins at i, -1 if it does not. One
// at the very end of the text closes it also behind a backslash, for Caddy.
func closingBrace(text string, i int) int {
	for ; i < len(text); i++ {
		if text[i] == '}' && (i == len(text)-1 || !escaped(text, i)) {
			return i
		}
	}
	return -1
}

func escaped(text string, i int) bool { return i > 0 && text[i-1] == '\\' }
