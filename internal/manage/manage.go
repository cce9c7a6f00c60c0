// Package manage has what the Managers of this repository share.
package manage

import "slices"

// States returns the states that a call of a Manager can apply to: those asked for
// without what it passes over, or its own choice if none was asked for. It is
// never empty: if nothing remains, it is a state that no delivery has.
func States[S ~string](asked, otherwise []S, not ...S) []S {
	if len(asked) == 0 {
		return otherwise
	}
	kept := slices.DeleteFunc(slices.Clone(asked), func(s S) bool { return slices.Contains(not, s) })
	if len(kept) == 0 {
		return []S{""}
	}
	return kept
}
