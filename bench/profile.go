//go:build unix

package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/pprof"
)

// profile begins profiles of the last round, if they were asked for, and returns how
// to write them.
func (b *bench) profile(name string) (stop func() error, err error) {
	if b.plan.profiles == "" || !b.last {
		return func() error { return nil }, nil
	}
	if err := os.MkdirAll(b.plan.profiles, 0o750); err != nil {
		return nil, err
	}
	cpu, err := os.Create(filepath.Join(b.plan.profiles, name+".cpu"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, errors.Join(err, cpu.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		mem, err := os.Create(filepath.Join(b.plan.profiles, name+".mem"))
		if err == nil {
			err = errors.Join(pprof.Lookup("allocs").WriteTo(mem, 0), mem.Close())
		}
		return errors.Join(err, cpu.Close())
	}, nil
}
