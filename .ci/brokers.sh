#!/bin/bash
# Real brokers on loopback, for the tests: Kafka, RabbitMQ, Redis and PgBouncer.
#
#   eval "$(.ci/brokers.sh up DIR [NAME ...])"   installs what is missing, starts kafka, amqp, redis and pgbouncer, or those named,
#                                                and prints the variables by which tests find them
#   .ci/brokers.sh stop|start|restart DIR NAME   for tests of an outage
#   .ci/brokers.sh pause|resume DIR NAME         for tests of a broker that hangs
#   .ci/brokers.sh down DIR                      stops all that was started; the data stays in DIR
#
# For Debian, as root. All that is written goes under DIR (and ~/.m2, Maven's cache). Ports are free ones, kept in DIR, so that
# a broker comes back where it was. "up" starts what does not run, and is harmless when all of it does.
# PgBouncer stands before PGBOUNCER_TARGET (host:port, default 127.0.0.1:5432), in transaction mode.
set -euo pipefail

kafka_version=4.3.1
all=(kafka amqp redis pgbouncer)

usage() {
  sed -n '2,/^set/ s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

log() { echo "$*" >&2; }

# --- packages ---------------------------------------------------------------------------------------------------------

install_packages() {
  [ $# -gt 0 ] || return 0
  if [ ! -e "$dir/updated" ]; then
    apt-get update -qq >&2
    touch "$dir/updated"
  fi
  # A running server must not be upgraded under its users.
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-upgrade "$@" >"$dir/apt.log" 2>&1 ||
    { cat "$dir/apt.log" >&2; return 1; }
  # Where there is systemd, Debian starts what it installs, on ports that are others' business.
  if [ -d /run/systemd/system ]; then
    for package in "$@"; do systemctl disable --now --quiet "$package" 2>/dev/null || true; done
  fi
}

install_missing() {
  local missing=()
  wants openssl || missing+=(openssl)
  for name in "$@"; do
    case $name in
      kafka)
        wants java || missing+=(default-jre-headless)
        [ -e "$dir/kafka/libs/kafka_2.13-$kafka_version.jar" ] || wants mvn || missing+=(maven)
        ;;
      amqp) [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing+=(rabbitmq-server) ;;
      redis) wants redis-server || missing+=(redis-server) ;;
      pgbouncer) wants pgbouncer || missing+=(pgbouncer) ;;
    esac
  done
  install_packages "${missing[@]}"
}

wants() { command -v "$1" >/dev/null; }

# fetch_kafka copies Kafka and all it needs from Maven Central.
fetch_kafka() {
  [ ! -e "$dir/kafka/libs/kafka_2.13-$kafka_version.jar" ] || return 0
  mkdir -p "$dir/kafka"
  cat >"$dir/kafka/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka_version</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
POM
  mvn -B -q -f "$dir/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$dir/kafka/libs" >"$dir/kafka/mvn.log" 2>&1 ||
    { tail -n 20 "$dir/kafka/mvn.log" >&2; return 1; }
}

# --- ports and certificates -------------------------------------------------------------------------------------------

# port NAME FROM: the port of that name, the first free one from FROM on when it is asked for first. All lie below those that the
# kernel gives to outgoing connections, one of which could otherwise hold a port while its broker restarts.
port() {
  local file=$dir/ports/$1 p=$2
  mkdir -p "$dir/ports"
  if [ ! -e "$file" ]; then
    while listens "$p" || grep -qxs "$p" "$dir"/ports/*; do p=$((p + 1)); done
    echo "$p" >"$file"
  fi
  cat "$file"
}

# leave_taken forgets the ports of a broker that does not run, where somebody else has got them meanwhile.
leave_taken() {
  for file in "$dir/ports/$1"*; do
    if [ -e "$file" ] && listens "$(cat "$file")"; then rm "$file"; fi
  done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# make_certificates makes an authority, and what it signed for localhost and 127.0.0.1.
make_certificates() {
  [ ! -e "$dir/tls/server.pem" ] || return 0
  mkdir -p "$dir/tls"
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj '/CN=test authority' \
    -keyout "$dir/tls/ca.key" -out "$dir/tls/ca.crt" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout "$dir/tls/server.key" -out "$dir/tls/server.csr" 2>/dev/null
  openssl x509 -req -in "$dir/tls/server.csr" -CA "$dir/tls/ca.crt" -CAkey "$dir/tls/ca.key" -CAcreateserial -days 30 \
    -extfile <(echo 'subjectAltName=DNS:localhost,IP:127.0.0.1') -out "$dir/tls/server.crt" 2>/dev/null
  openssl pkcs8 -topk8 -nocrypt -in "$dir/tls/server.key" -out "$dir/tls/server.p8"
  cat "$dir/tls/server.p8" "$dir/tls/server.crt" "$dir/tls/ca.crt" >"$dir/tls/server.pem.new"
  chmod -R a+rX "$dir/tls" # the brokers are not root
  mv "$dir/tls/server.pem.new" "$dir/tls/server.pem"
}

# --- processes --------------------------------------------------------------------------------------------------------

# launch NAME COMMAND... in a process group of its own, which outlives this script.
launch() {
  local name=$1
  shift
  ERL_CRASH_DUMP=$dir/erl_crash.dump setsid nohup "$@" >>"$dir/$name.log" 2>&1 </dev/null &
  local pid=$!
  echo "$pid" >"$dir/$name.pid"
  # It has its group a moment after it began.
  until runs "$name" || ! kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
}

runs() { [ -e "$dir/$1.pid" ] && kill -0 -- "-$(cat "$dir/$1.pid")" 2>/dev/null; }

# await NAME PORT: until it listens, or has died.
await() {
  for _ in {1..600}; do
    if ! runs "$1"; then break; fi
    if listens "$2"; then return; fi
    sleep 0.1
  done
  log "$1 did not start:"
  tail -n 20 "$dir/$1.log" >&2
  return 1
}

# halt NAME: the whole process group, gently first.
halt() {
  runs "$1" || { rm -f "$dir/$1.pid"; return 0; }
  local group
  group=-$(cat "$dir/$1.pid")
  kill -CONT -- "$group" 2>/dev/null || true # a stopped one hears nothing
  kill -TERM -- "$group" 2>/dev/null || true
  for i in {1..200}; do
    if ! runs "$1"; then break; fi
    # All of them survive that.
    if [ "$i" = 80 ]; then kill -KILL -- "$group" 2>/dev/null || true; fi
    sleep 0.1
  done
  if runs "$1"; then log "$1 does not end"; return 1; fi
  rm -f "$dir/$1.pid"
}

# pause NAME: when it returns, no thread of it runs. On a busy machine some go on for a while after the signal.
pause() {
  local group
  group=$(cat "$dir/$1.pid")
  kill -STOP -- "-$group"
  for _ in {1..300}; do
    if ! { cat /proc/[0-9]*/task/*/stat 2>/dev/null || true; } | sed 's/^.*) //' | awk -v group="$group" '$3 == group && $1 !~ /[TZX]/ { n++ } END { exit n > 0 }'; then
      sleep 0.1
      continue
    fi
    return
  done
  log "$1 does not pause"
  return 1
}

# --- the brokers ------------------------------------------------------------------------------------------------------

start_kafka() {
  local port tls controller
  port=$(port kafka 29092) tls=$(port kafka-tls 29192) controller=$(port kafka-controller 29292)
  fetch_kafka
  cat >"$dir/kafka/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,SASL_SSL://127.0.0.1:$tls,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_SSL://127.0.0.1:$tls
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location=$dir/tls/server.pem
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="test" password="secret" user_test="secret";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
log.dirs=$dir/kafka/data
num.partitions=4
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
controlled.shutdown.enable=false
PROPERTIES
  cat >"$dir/kafka/log4j2.properties" <<'PROPERTIES'
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = Console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c: %m%n
PROPERTIES
  local java=(java -Xms128m -Xmx320m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$dir/kafka/libs/*"
    -Dlog4j2.configurationFile="$dir/kafka/log4j2.properties")
  if [ ! -e "$dir/kafka/data/meta.properties" ]; then
    "${java[@]}" kafka.tools.StorageTool format -t AAAAAAAAQACAAAAAAAAAAQ -c "$dir/kafka/server.properties" \
      --add-scram 'SCRAM-SHA-256=[name=test,password=secret]' --add-scram 'SCRAM-SHA-512=[name=test,password=secret]' \
      >"$dir/kafka.log" 2>&1 || { cat "$dir/kafka.log" >&2; return 1; }
  fi
  launch kafka "${java[@]}" kafka.Kafka "$dir/kafka/server.properties"
  await kafka "$port"
  await kafka "$tls"
}

start_amqp() {
  local port tls dist epmd
  port=$(port amqp 25672) tls=$(port amqp-tls 25772) dist=$(port amqp-dist 25872) epmd=$(port epmd 24369)
  mkdir -p "$dir/amqp/home"
  # max_message_size is a broker's own way to refuse a message that is too large.
  cat >"$dir/amqp/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$port
listeners.ssl.1 = 127.0.0.1:$tls
ssl_options.cacertfile = $dir/tls/ca.crt
ssl_options.certfile = $dir/tls/server.crt
ssl_options.keyfile = $dir/tls/server.p8
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
max_message_size = 2097152
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 10MB
log.console = true
log.console.level = warning
log.file = false
CONF
  : >"$dir/amqp/plugins"
  chown -R rabbitmq: "$dir/amqp"
  if ! runs epmd; then
    launch epmd epmd -address 127.0.0.1 -port "$epmd" -relaxed_command_check
    await epmd "$epmd"
  fi
  launch amqp setpriv --reuid=rabbitmq --regid=rabbitmq --clear-groups env HOME="$dir/amqp/home" \
    RABBITMQ_NODENAME="test$port@localhost" RABBITMQ_DIST_PORT="$dist" ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT="$epmd" \
    RABBITMQ_CONFIG_FILE="$dir/amqp/rabbitmq" RABBITMQ_MNESIA_BASE="$dir/amqp/mnesia" RABBITMQ_LOG_BASE="$dir/amqp/log" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$dir/amqp/plugins" RABBITMQ_ADVANCED_CONFIG_FILE="$dir/amqp/none" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} +S 2:2' \
    /usr/lib/rabbitmq/bin/rabbitmq-server
  await amqp "$port"
  await amqp "$tls"
}

start_redis() {
  local port tls
  port=$(port redis 26379) tls=$(port redis-tls 26479)
  mkdir -p "$dir/redis"
  # Every write is on the disk before it is acknowledged, so that tests may restart it.
  launch redis redis-server --bind 127.0.0.1 --port "$port" --dir "$dir/redis" --save '' --appendonly yes --appendfsync always \
    --tls-port "$tls" --tls-ca-cert-file "$dir/tls/ca.crt" --tls-cert-file "$dir/tls/server.crt" --tls-key-file "$dir/tls/server.key" \
    --tls-auth-clients no --user test on '>secret' '~*' '&*' +@all
  await redis "$port"
}

start_pgbouncer() {
  local port target=${PGBOUNCER_TARGET:-127.0.0.1:5432}
  port=$(port pgbouncer 26432)
  mkdir -p "$dir/pgbouncer"
  cat >"$dir/pgbouncer/pgbouncer.ini" <<INI
[databases]
* = host=${target%:*} port=${target##*:}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $dir/pgbouncer/users
pool_mode = transaction
max_client_conn = 500
default_pool_size = 20
ignore_startup_parameters = extra_float_digits,search_path
INI
  echo "\"${PGBOUNCER_USER:-postgres}\" \"${PGBOUNCER_PASSWORD:-}\"" >"$dir/pgbouncer/users"
  chown -R postgres: "$dir/pgbouncer"
  launch pgbouncer setpriv --reuid=postgres --regid=postgres --clear-groups pgbouncer "$dir/pgbouncer/pgbouncer.ini"
  await pgbouncer "$port"
}

# exports prints how tests find the broker of that name.
exports() {
  case $1 in
    kafka)
      echo "export PGSAGAZ_TEST_KAFKA=kafka://127.0.0.1:$(port kafka 29092)"
      echo "export PGSAGAZ_TEST_KAFKA_TLS=kafka+ssl://test:secret@127.0.0.1:$(port kafka-tls 29192)"
      ;;
    amqp)
      echo "export PGSAGAZ_TEST_AMQP=amqp://guest:guest@127.0.0.1:$(port amqp 25672)/"
      echo "export PGSAGAZ_TEST_AMQP_TLS=amqps://guest:guest@127.0.0.1:$(port amqp-tls 25772)/"
      ;;
    redis)
      echo "export PGSAGAZ_TEST_REDIS=redis://127.0.0.1:$(port redis 26379)/0"
      echo "export PGSAGAZ_TEST_REDIS_TLS=rediss://test:secret@127.0.0.1:$(port redis-tls 26479)/0"
      ;;
    pgbouncer) echo "export PGSAGAZ_TEST_PGBOUNCER=127.0.0.1:$(port pgbouncer 26432)" ;;
  esac
}

start() {
  runs "$1" || "start_$1"
}

known() {
  for name in "${all[@]}"; do [ "$1" != "$name" ] || return 0; done
  log "$1 is none of ${all[*]}"
  exit 2
}

[ $# -ge 2 ] || usage
command=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
shift 2
for name in "$@"; do known "$name"; done

case $command in
  up)
    [ $# -gt 0 ] || set -- "${all[@]}"
    chmod a+x "$dir" # RabbitMQ and PgBouncer do not run as root
    install_missing "$@"
    make_certificates
    for name in "$@" epmd; do runs "$name" || leave_taken "$name"; done
    for name in "$@"; do
      began=$SECONDS
      start "$name"
      log "$name is up after $((SECONDS - began)) s"
    done
    for name in "$@"; do exports "$name"; done
    echo "export PGSAGAZ_TEST_BROKERS_CA=$dir/tls/ca.crt"
    echo "export PGSAGAZ_TEST_BROKERS_SCRIPT='$(cd "$(dirname "$0")" && pwd)/$(basename "$0")' PGSAGAZ_TEST_BROKERS_DIR='$dir'"
    ;;
  start | stop | restart | pause | resume)
    [ $# -gt 0 ] || usage
    for name in "$@"; do
      case $command in
        start) start "$name" ;;
        stop) halt "$name" ;;
        restart) halt "$name" && start "$name" ;;
        pause) pause "$name" ;;
        resume) kill -CONT -- "-$(cat "$dir/$name.pid")" ;;
      esac
    done
    ;;
  down)
    for name in "${all[@]}" epmd; do halt "$name"; done
    ;;
  *) usage ;;
esac
