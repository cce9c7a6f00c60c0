//go:build unix

package main

import (
	"fmt"
	"math"
	"slices"
)

// A figure is what a scenario has found.
type figure struct {
	name   string
	digits int
	values series // of the rounds; their median is the figure
	aim    aim
}

func (f *figure) value() float64 { return f.values.median() }

func (f *figure) text() string { return fmt.Sprintf("%.*f", f.digits, f.value()) }

// met judges the figure as it is printed.
func (f *figure) met() bool {
	unit := math.Pow10(f.digits)
	return f.aim.met(math.Round(f.value()*unit) / unit)
}

// spread is empty if there was one round.
func (f *figure) spread() string {
	if len(f.values) < 2 {
		return ""
	}
	return fmt.Sprintf("%.*f – %.*f", f.digits, slices.Min(f.values), f.digits, slices.Max(f.values))
}

// An aim is what a figure should be.
type aim struct {
	least, most float64 // 0: no bound
	zero        bool    // it should be 0
}

func (a aim) String() string {
	switch {
	case a.zero:
		return "0"
	case a.least > 0:
		return fmt.Sprintf("≥ %g", a.least)
	case a.most > 0:
		return fmt.Sprintf("≤ %g", a.most)
	}
	return ""
}

func (a aim) met(value float64) bool {
	switch {
	case a.zero:
		return value == 0
	case a.least > 0:
		return value >= a.least
	}
	return a.most <= 0 || value <= a.most
}

// figure prints one, and keeps it for the table.
func (b *bench) figure(name string, digits int, values series) {
	f := figure{name: name, digits: digits, values: values, aim: aims()[name]}
	b.figures = append(b.figures, f)
	b.print(f)
}

// detail prints a figure that explains another, and keeps it apart.
func (b *bench) detail(name string, digits int, values series) {
	f := figure{name: name, digits: digits, values: values}
	b.details = append(b.details, f)
	b.print(f)
}

func (b *bench) print(f figure) {
	if s := f.spread(); s != "" {
		b.logf("%s: %s, %s", f.name, f.text(), s)
	}
	fmt.Fprintf(b.out, "bench: %s=%s\n", f.name, f.text())
}

func (b *bench) logf(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }
