//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"
)

// Between these the table stands in a document.
const (
	tableBegins = "<!-- figures: written by bench -markdown -->\n"
	tableEnds   = "<!-- end of figures -->\n"
)

// writeTable puts the table between the marks in a file, or makes the file.
func (b *bench) writeTable(ctx context.Context, path string) error {
	table, err := b.table(ctx)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before, rest, found := bytes.Cut(text, []byte(tableBegins))
	_, after, ends := bytes.Cut(rest, []byte(tableEnds))
	if len(text) > 0 && !(found && ends) {
		return fmt.Errorf("%s has no place for the figures", path)
	}
	return os.WriteFile(path, []byte(string(before)+tableBegins+table+tableEnds+string(after)), 0o644)
}

func (b *bench) table(ctx context.Context) (string, error) {
	machine, err := b.machine(ctx)
	if err != nil {
		return "", err
	}
	var t strings.Builder
	fmt.Fprintf(&t, "\n%s. %s. %d deliveries of %d bytes in each measurement, medians of %d rounds and their range.\n\n", time.Now().Format(time.DateOnly), machine, b.plan.n, b.plan.body, b.plan.rounds)
	t.WriteString("| figure | what it is | median | range | target | |\n|---|---|---:|---:|---:|---|\n")
	for _, f := range b.figures {
		judgement := ""
		if f.aim != (aim{}) {
			judgement = "met"
			if !f.met() {
				judgement = "**not met**"
			}
		}
		fmt.Fprintf(&t, "| `%s` | %s | %s | %s | %s | %s |\n", f.name, f.meaning(), f.text(), f.spread(), f.aim, judgement)
	}
	if len(b.details) > 0 {
		t.WriteString("\n<details><summary>What they come from</summary>\n\n| figure | median | range |\n|---|---:|---:|\n")
		for _, f := range b.details {
			fmt.Fprintf(&t, "| `%s` | %s | %s |\n", f.name, f.text(), f.spread())
		}
		t.WriteString("\n</details>\n")
	}
	if b.simulated != "" {
		t.WriteString("\nThe simulation:\n\n" + b.simulated)
	}
	t.WriteString("\n")
	return t.String(), nil
}

// machine says on what the figures were found.
func (b *bench) machine(ctx context.Context) (string, error) {
	var version string
	if err := b.database.pool.QueryRow(ctx, "select split_part(version(), ' ', 2)").Scan(&version); err != nil {
		return "", err
	}
	cpu := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo")
	if _, rest, ok := bytes.Cut(info, []byte("model name\t: ")); ok {
		model, _, _ := bytes.Cut(rest, []byte("\n"))
		cpu = string(model)
	}
	return fmt.Sprintf("%d CPUs (%s), %s, %s, PostgreSQL %s, the receiver and the database on the same machine",
		runtime.NumCPU(), cpu, runtime.GOOS, runtime.Version(), version), nil
}
