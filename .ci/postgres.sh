# Sourced by .ci/run: two PostgreSQL servers on loopback ports of their own, from
# Debian's package. One is for all tests; the other is stopped, started and
# killed by those that ask for it, which must not disturb the rest.
#
#   postgres_start DIR   installs, starts, proves with psql, exports FLUXLY_TEST_POSTGRES*
#   postgres_stop        ends what was started
#
# Nothing of the machine's own servers is used or changed: data, sockets and
# logs are all under DIR. Needs root, because the servers run as user postgres
# and the small disk is mounted.

postgres_dir=
postgres_ctls=()
postgres_small=

postgres_install() {
	local policy= create=/etc/postgresql-common/createcluster.d/fluxly-ci.conf
	postgres_bin=$(postgres_newest)
	[ -z "$postgres_bin" ] || return 0
	export DEBIAN_FRONTEND=noninteractive
	# The package must not make or start a server of the machine.
	mkdir -p "${create%/*}"
	echo 'create_main_cluster = false' >"$create"
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		policy=1
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
	fi
	apt-get -o DPkg::Lock::Timeout=300 -qq update
	apt-get -o DPkg::Lock::Timeout=300 -qq install -y --no-install-recommends postgresql >/dev/null
	[ -z "$policy" ] || rm -f /usr/sbin/policy-rc.d
	rm -f "$create"
	postgres_bin=$(postgres_newest)
	[ -n "$postgres_bin" ] || { echo "there is no initdb under /usr/lib/postgresql" >&2; return 1; }
}

# postgres_newest: the folder of the newest server's programs; empty for none.
postgres_newest() {
	local initdb
	initdb=$(ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)
	echo "${initdb%/initdb}"
}

# postgres_port: a loopback port that is free now, below those that the system
# gives out itself.
postgres_port() {
	local port
	for port in $(shuf -i 10000-19900 -n 50); do
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
	done
	echo "no free port between 10000 and 19900" >&2
	return 1
}

# postgres_control NAME PORT: writes the control script of one server.
postgres_control() {
	local home=$postgres_dir/$1
	{
		echo '#!/usr/bin/env bash'
		echo "# Controls one PostgreSQL server of the tests, at port $2."
		printf 'bin=%q data=%q log=%q port=%q\n' "$postgres_bin" "$home/data" "$home/log" "$2"
		cat <<-'CTL'
			set -euo pipefail
			exec </dev/null

			pg() { # a program of the server's, as its user
				if [ "$(id -u)" -eq 0 ]; then
					(cd / && runuser -u postgres -- "$bin/$1" "${@:2}")
				else
					"$bin/$1" "${@:2}"
				fi
			}

			ctl() { pg pg_ctl -D "$data" -l "$log" -w -t 60 -s "$@" >/dev/null; }

			# runs PID: it is a process, and not one that ended and that nobody
			# has waited for.
			runs() {
				local stat
				stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
				stat=${stat##*) }
				[ "${stat%% *}" != Z ]
			}

			parent_of() { # PID
				local stat
				stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
				stat=${stat##*) }
				stat=${stat#* }
				echo "${stat%% *}"
			}

			postmaster() { head -n 1 "$data/postmaster.pid" 2>/dev/null; }

			# forget clears what a killed server left, where its pid is still
			# taken by its remains: a new server would believe that it lives.
			forget() {
				local pid segment
				pid=$(postmaster) || return 0
				runs "$pid" && return 0
				segment=$(sed -n 7p "$data/postmaster.pid" | awk '{ print $2 }')
				[ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null || :
				rm -f "$data/postmaster.pid"
			}

			start() {
				local pid
				pid=$(postmaster) || pid=
				[ -z "$pid" ] || [ ! -e "/proc/$pid" ] || forget
				ctl start
				until pg pg_isready -q -h 127.0.0.1 -p "$port"; do sleep 0.05; done
			}

			stop() {
				if pid=$(postmaster) && runs "$pid"; then ctl -m "$1" stop; fi
			}

			# kill_all ends the postmaster and its children in the middle of what
			# they do. Standing still, it starts no others meanwhile.
			kill_all() {
				local pid p all=()
				pid=$(postmaster) || { echo "the server does not run" >&2; return 1; }
				runs "$pid" || { echo "the server does not run" >&2; return 1; }
				kill -STOP "$pid"
				for p in /proc/[0-9]*; do
					p=${p#/proc/}
					[ "$(parent_of "$p" || :)" != "$pid" ] || all+=("$p")
				done
				kill -KILL "$pid" "${all[@]}" 2>/dev/null || :
				for p in "$pid" "${all[@]}"; do
					while runs "$p"; do sleep 0.01; done
				done
			}

			# crash ends one backend in the middle of what it does: the server ends
			# all others and recovers by itself.
			crash() {
				local pid p title
				pid=$(postmaster) || { echo "the server does not run" >&2; return 1; }
				for _ in {1..1000}; do
					for p in /proc/[0-9]*; do
						p=${p#/proc/}
						[ "$(parent_of "$p" || :)" = "$pid" ] || continue
						title=$(tr '\0' ' ' 2>/dev/null <"/proc/$p/cmdline") || continue
						[[ $title == "postgres: fluxly fluxly "* ]] || continue
						kill -KILL "$p" 2>/dev/null && return 0
					done
					sleep 0.01
				done
				echo "nobody is connected to the server" >&2
				return 1
			}

			case "${1:-}" in
			start) start ;;
			stop) stop fast ;;
			restart) stop fast && start ;;
			kill) kill_all ;;
			crash) crash ;;
			end) stop immediate && forget ;;
			url) echo "postgres://fluxly@127.0.0.1:$port/fluxly?sslmode=disable" ;;
			*) echo "usage: $0 start|stop|restart|kill|crash|end|url" >&2 && exit 2 ;;
			esac
		CTL
	} >"$home.ctl"
	chmod 755 "$home.ctl"
}

# postgres_make NAME: a server that runs, with the role and database fluxly. The
# role is no superuser: the library needs none.
postgres_make() {
	local home=$postgres_dir/$1 port
	port=$(postgres_port)
	mkdir -p "$home"
	chown postgres: "$home"
	(cd / && runuser -u postgres -- "$postgres_bin/initdb" -D "$home/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$home.initdb") ||
		{ cat "$home.initdb" >&2; return 1; }
	cat >>"$home/data/postgresql.conf" <<-CF
		listen_addresses = '127.0.0.1'
		port = $port
		unix_socket_directories = ''
		max_connections = 200
		fsync = on
		# In the data folder, so that a killed server leaves nothing elsewhere.
		dynamic_shared_memory_type = mmap
	CF
	postgres_control "$1" "$port"
	postgres_ctls+=("$home.ctl")
	"$home.ctl" start || { cat "$home/log" >&2; return 1; }
	postgres_sql "$port" postgres -c 'CREATE ROLE fluxly LOGIN CREATEDB' -c 'CREATE DATABASE fluxly OWNER fluxly'
}

# postgres_sql PORT DATABASE ARG...: psql as superuser.
postgres_sql() {
	"$postgres_bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$1" -U postgres -d "$2" "${@:3}"
}

# postgres_full PORT: the database full, whose tables are on a disk of 64 MB.
# The log of the server is on the large one, so that it survives.
postgres_full() {
	postgres_small=$postgres_dir/small
	mkdir -p "$postgres_small"
	mount -t tmpfs -o size=64m,mode=755 fluxly-ci "$postgres_small" || {
		postgres_small=
		echo "the small disk cannot be mounted; without it the test of a full disk cannot run" >&2
		return 1
	}
	mkdir "$postgres_small/tables"
	chown postgres: "$postgres_small/tables"
	postgres_sql "$1" postgres -c "CREATE TABLESPACE small OWNER fluxly LOCATION '$postgres_small/tables'" \
		-c "CREATE DATABASE \"full\" OWNER fluxly TABLESPACE small" \
		-c CHECKPOINT # the new files are written, not only reserved
}

postgres_start() {
	local url port
	postgres_install
	postgres_dir=$1/postgres
	mkdir -p "$postgres_dir"
	chmod 755 "$1" "$postgres_dir"
	postgres_make steady
	postgres_make victim
	url=$("$postgres_dir/steady.ctl" url)
	port=${url#*@127.0.0.1:}
	port=${port%%/*}
	postgres_full "$port"

	export FLUXLY_TEST_POSTGRES=$url
	export FLUXLY_TEST_POSTGRES_FULL="postgres://fluxly@127.0.0.1:$port/full?sslmode=disable"
	export FLUXLY_TEST_POSTGRES_CTL=$postgres_dir/victim.ctl
	postgres_prove || { tail -n 30 "$postgres_dir"/*/log >&2; return 1; }
	echo "$("$postgres_bin/postgres" --version) on $url and, for stops, $("$FLUXLY_TEST_POSTGRES_CTL" url)"
}

# postgres_prove: a commit survives a kill, the small disk fills with the error
# that tests look for, and what was in the way goes.
postgres_prove() {
	local victim said psql=("$postgres_bin/psql" -X -q -A -t -v ON_ERROR_STOP=1)
	victim=$("$FLUXLY_TEST_POSTGRES_CTL" url)
	"${psql[@]}" "$victim" -c 'CREATE TABLE proof AS SELECT 42 AS n' &&
		"$FLUXLY_TEST_POSTGRES_CTL" kill || return 1
	if "${psql[@]}" "$victim" -c 'SELECT 1' >/dev/null 2>&1; then
		echo "the server answers although it was killed" >&2
		return 1
	fi
	"$FLUXLY_TEST_POSTGRES_CTL" start &&
		[ "$("${psql[@]}" "$victim" -c 'SELECT n FROM proof')" = 42 ] &&
		"${psql[@]}" "$victim" -c 'DROP TABLE proof' || { echo "the killed server did not come back whole" >&2; return 1; }
	said=$("${psql[@]}" -v VERBOSITY=verbose "$FLUXLY_TEST_POSTGRES_FULL" -c \
		"CREATE TABLE proof AS SELECT repeat('x', 1000) FROM generate_series(1, 100000)" 2>&1) || :
	[[ $said == *" 53100: "* ]] || { echo "the small disk did not fill with error 53100: $said" >&2; return 1; }
	"${psql[@]}" "$FLUXLY_TEST_POSTGRES_FULL" -c 'CREATE TABLE proof ()' -c 'DROP TABLE proof'
}

# postgres_stop ends the servers at once, and waits for them.
postgres_stop() {
	local ctl
	for ctl in "${postgres_ctls[@]}"; do
		"$ctl" end || :
	done
	postgres_ctls=()
	[ -z "$postgres_small" ] || umount "$postgres_small" || :
	postgres_small=
}
