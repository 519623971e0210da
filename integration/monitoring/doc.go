// Package monitoring holds the tests of what is watched: that each metric is exported and documented, that each alert can fire, that
// each has a runbook, and that no panel of the dashboard is empty. They run a worker as its command does, and a real Prometheus
// on loopback that scrapes it.
//
//	files_test.go        what the files say of each other; promtool's tests of the rules
//	prometheus_test.go   a Prometheus, and what it is asked
//	system_test.go       a worker, a consumer and a broker that can be told to fail
//	alerts_test.go       faults, and the alerts that they raise; the dashboard; the metrics
//
// Prometheus and promtool are found in PATH. Where they are missing the tests are skipped, and with PGSAGAZ_TEST_PROMETHEUS=required
// they fail.
package monitoring
