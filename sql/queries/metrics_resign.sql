UPDATE pgsagaz.metrics_leader SET until = '-infinity' WHERE holder = $1
