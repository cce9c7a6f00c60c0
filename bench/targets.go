//go:build unix

package main

import "strings"

// A target is what a figure means, and should be.
type target struct {
	name, text string
	aim        aim
}

// targets are all figures of the table, but those that are one of several.
func targets() []target {
	least := func(x float64) aim { return aim{least: x} }
	most := func(x float64) aim { return aim{most: x} }
	any := aim{}
	return []target{
		{"prepared_vs_nethttp", "Prepared requests handed straight to http.Transport, nothing stored, against the bare loop", any},
		{"memory_vs_nethttp", "MemoryStore, drain of a backlog, against the bare loop", least(1.1)},
		{"sqlite_vs_nethttp", "SQLite, drain", least(0.65)},
		{"pg_vs_nethttp", "PostgreSQL, drain", least(0.6)},
		{"river_vs_nethttp", "River, drain", any},
		{"pg_vs_river", "PostgreSQL against River, drain", least(3)},
		{"memory_flow_vs_nethttp", "MemoryStore, whole flow: Send and delivery", any},
		{"sqlite_flow_vs_nethttp", "SQLite, whole flow", least(0.45)},
		{"pg_flow_vs_nethttp", "PostgreSQL, whole flow", least(0.45)},
		{"river_flow_vs_nethttp", "River, whole flow", any},
		{"pg_flow_vs_river", "PostgreSQL against River, whole flow", any},
		{"memory_single_vs_nethttp", "MemoryStore, whole flow, one subscriber for each event", any},
		{"sqlite_single_vs_nethttp", "SQLite, the same", any},
		{"pg_single_vs_nethttp", "PostgreSQL, the same", any},
		{"river_single_vs_nethttp", "River, the same", any},
		{"pg_single_vs_river", "PostgreSQL against River, the same", any},
		{"hung_throughput_memory", "One of 20 subscribers hangs: throughput of the others, MemoryStore", least(0.9)},
		{"hung_throughput_sqlite", "the same, SQLite", least(0.9)},
		{"hung_throughput_pg", "the same, PostgreSQL", least(0.9)},
		{"hung_p99_memory", "and their p99 latency, MemoryStore", most(2)},
		{"hung_p99_sqlite", "the same, SQLite", most(2)},
		{"hung_p99_pg", "the same, PostgreSQL", most(2)},
		{"health_throughput_memory", "15 of 100 subscribers hang, fail or want a pause: throughput of the others, MemoryStore", least(0.9)},
		{"health_throughput_pg", "the same, PostgreSQL", least(0.9)},
		{"health_p99_memory", "and their p99 latency, MemoryStore", most(2)},
		{"health_p99_pg", "the same, PostgreSQL", most(2)},
		{"latency_p50_vs_post", "Send to the receiver's first byte, p50, MemoryStore against a bare post", most(2)},
		{"pg_latency_p50_over_commit_ms", "the same, PostgreSQL, beyond one commit, ms", most(2)},
		{"pg_latency_p99_vs_p50", "and its p99 against its p50", most(5)},
		{"fanout_10k_ms_memory", "One Send to 10,000 subscribers, ms, MemoryStore", any},
		{"fanout_10k_ms_sqlite", "the same, SQLite", any},
		{"fanout_10k_ms_pg", "the same, PostgreSQL", most(500)},
		{"fanout_10k_ms_river", "10,000 jobs inserted at once, River", any},
		{"fanout_payloads", "Copies of its payload in PostgreSQL", most(1)},
		{"pg_claim_1m_vs_1k", "Claim of 100 from a million pending against one from 1,000", most(1.3)},
		{"pg_claim_held_vs_1k", "the same after deliveries that vacuum must not remove yet", any},
		{"pg_worker_mib_1m", "The most memory of a worker process with a million pending, MiB", most(64)},
		{"two_processes_vs_one", "Two worker processes against one, PostgreSQL", least(1)},
		{"four_processes_vs_one", "Four", any},
		{"two_loops_vs_one", "Two processes with the bare loop against one", any},
		{"four_loops_vs_one", "Four", any},
		{"memory_20k_vs_nethttp", "Bodies of 20 KiB: MemoryStore, drain", any},
		{"sqlite_20k_vs_nethttp", "SQLite", any},
		{"pg_20k_vs_nethttp", "PostgreSQL", any},
		{"river_20k_vs_nethttp", "River", any},
		{"memory_256k_vs_nethttp", "Bodies of 256 KiB: MemoryStore, drain", any},
		{"sqlite_256k_vs_nethttp", "SQLite", any},
		{"pg_256k_vs_nethttp", "PostgreSQL", any},
		{"river_256k_vs_nethttp", "River", any},
		{"idle_wakeups_memory", "Wake-ups of an idle worker in a second, MemoryStore", aim{zero: true}},
		{"idle_queries_per_second", "Queries of an idle worker in a second, PostgreSQL", most(2)},
		{"memory_bytes_per_pending", "Bytes of a pending delivery beside the payload, MemoryStore", most(600)},
		{"sign_vs_hmac", "Signing 1 KiB against crypto/hmac alone", most(1.15)},
		{"sign_allocs", "Allocations of signing", most(2)},
		{"allocs_vs_nethttp", "Allocations of a delivery against a bare post", most(1.25)},
		{"sim_healthy_wait_p99_ms", "Simulation: Send to the first attempt, p99 of healthy subscribers, ms", any},
		{"sim_attempts_per_delivery", "Simulation: attempts per delivery of all", any},
		{"sim_failing_slots", "Simulation: share of busy slots that subscribers take who fail", any},
	}
}

// aims are the targets by the name of the figure.
func aims() map[string]aim {
	byName := make(map[string]aim)
	for _, t := range targets() {
		if t.aim != (aim{}) {
			byName[t.name] = t.aim
		}
	}
	return byName
}

// meaning says what a figure is.
func (f *figure) meaning() string {
	for _, t := range targets() {
		if t.name == f.name {
			return t.text
		}
	}
	return strings.ReplaceAll(f.name, "_", " ")
}
