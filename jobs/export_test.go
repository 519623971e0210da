package jobs

// Figures names all that a collector may export.
func Figures() (names []string) {
	for _, f := range allFigures {
		names = append(names, f.name)
	}
	return names
}
