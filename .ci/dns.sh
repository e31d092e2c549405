# Sourced by .ci/run: NSD, Knot and BIND as authoritative servers and Unbound
# as a validating cache before NSD and Knot, each on a loopback port of its own;
# pyspf as a second opinion on SPF, jsonschema on the report's schema, and
# Chromium to look at the page.
#
#   dns_start DIR   installs, starts, proves with dig, exports FLUXLY_TEST_DNS*
#   dns_stop        ends what was started
#
# Nothing of the machine's own name servers is used or changed: configuration,
# zones, keys and process files are all under DIR.

dns_pids=()

dns_install() {
	local missing=() policy=
	[ -x /usr/sbin/nsd ] || missing+=(nsd)
	[ -x /usr/sbin/knotd ] || missing+=(knot)
	[ -x /usr/sbin/named ] || missing+=(bind9)
	[ -x /usr/sbin/unbound ] || missing+=(unbound)
	[ -x /usr/bin/dig ] || missing+=(bind9-dnsutils)
	/usr/bin/python3 -c 'import spf' 2>/dev/null || missing+=(python3-spf)
	/usr/bin/python3 -c 'import jsonschema' 2>/dev/null || missing+=(python3-jsonschema)
	[ -x /usr/bin/chromium ] || missing+=(chromium fonts-dejavu-core)
	[ ${#missing[@]} -eq 0 ] && return
	export DEBIAN_FRONTEND=noninteractive
	# The packages must not start servers of the machine.
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		policy=1
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
	fi
	apt-get -o DPkg::Lock::Timeout=300 -qq update
	apt-get -o DPkg::Lock::Timeout=300 -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
	[ -z "$policy" ] || rm -f /usr/sbin/policy-rc.d
}

# dns_ports N: N loopback ports that are free now for TCP.
dns_ports() {
	local port n=0
	for port in $(shuf -i 32100-39900 -n 100); do
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue
		echo "$port"
		n=$((n + 1))
		[ $n -eq "$1" ] && return
	done
	return 1
}

dns_zones() {
	local d=$1 zone key
	# 2048 bits in two strings, as a long key is published.
	key=$(openssl genrsa 2048 2>/dev/null | openssl rsa -pubout -outform DER 2>/dev/null | base64 -w0)
	for zone in test acme.test fresh.test mtasv.net; do
		cat >"$d/$zone.zone" <<-ZONE
			\$ORIGIN $zone.
			\$TTL 300
			@ SOA ns1 hostmaster 1 3600 600 86400 300
			@ NS ns1
			ns1 A 192.0.2.1
		ZONE
	done
	cat >>"$d/acme.test.zone" <<-ZONE
		@ NS ns2
		@ NS ns3
		ns2 A 192.0.2.2
		ns3 A 192.0.2.3
		@ MX 10 mail
		mail A 192.0.2.10
		@ TXT "v=spf1 include:spf.mtasv.net " "~all"
		pm-bounces CNAME pm.mtasv.net.
		_dmarc TXT "v=DMARC1; p=reject; rua=mailto:dmarc@acme.test"
		s1._domainkey TXT "k=rsa; p=${key:0:200}" "${key:200}"
		alias._domainkey CNAME s1._domainkey
	ZONE
	for i in $(seq 14); do
		echo "big TXT \"$(printf 'x%.0s' $(seq 198))$(printf %02d "$i")\"" >>"$d/acme.test.zone"
	done
	cat >>"$d/mtasv.net.zone" <<-ZONE
		spf TXT "v=spf1 ip4:203.0.113.0/25 -all"
		pm TXT "v=spf1 include:spf.mtasv.net ~all"
		pm A 203.0.113.5
	ZONE
	echo '@ MX 10 ns1' >>"$d/fresh.test.zone"
	# Signed by Knot: one as it should be, one with a key that is not its own.
	for zone in signed.test bogus.test; do
		cat >"$d/$zone.zone" <<-ZONE
			\$ORIGIN $zone.
			\$TTL 300
			@ SOA ns2 hostmaster 1 3600 600 86400 300
			@ NS ns2
			ns2 A 192.0.2.2
			@ MX 10 ns2
			@ TXT "v=spf1 include:spf.mtasv.net ~all"
			_dmarc TXT "v=DMARC1; p=reject; rua=mailto:dmarc@$zone"
		ZONE
	done
}

dns_start() {
	local dir=$1/dns nsd knot bind unbound zone name key
	dns_install
	mkdir -p "$dir/knot" "$dir/bind"
	chmod 755 "$1" "$dir"
	dns_zones "$dir"
	read -r nsd knot bind unbound < <(dns_ports 4 | paste -sd ' ')

	# Without rrl-ratelimit, NSD answers 200 questions a second and drops the rest.
	cat >"$dir/nsd.conf" <<-CF
		server:
		  ip-address: 127.0.0.1@$nsd
		  username: ""
		  chroot: ""
		  zonesdir: "$dir"
		  database: ""
		  pidfile: "$dir/nsd.pid"
		  xfrdfile: "$dir/xfrd.state"
		  xfrdir: "$dir"
		  zonelistfile: "$dir/zone.list"
		  cookie-secret-file: ""
		  server-count: 1
		  rrl-ratelimit: 0
		remote-control:
		  control-enable: no
	CF
	cat >"$dir/knot.conf" <<-CF
		server:
		  listen: 127.0.0.1@$knot
		  rundir: "$dir/knot"
		database:
		  storage: "$dir/knot"
		log:
		  - target: stderr
		    any: warning
		template:
		  - id: default
		    storage: "$dir"
		    file: "%s.zone"
		    zonefile-sync: -1
		    journal-content: none
		  - id: signed
		    storage: "$dir"
		    file: "%s.zone"
		    zonefile-sync: -1
		    zonefile-load: whole
		    journal-content: none
		    dnssec-signing: on
		zone:
		  - domain: signed.test
		    template: signed
		  - domain: bogus.test
		    template: signed
	CF
	cat >"$dir/named.conf" <<-CF
		options {
		  directory "$dir/bind";
		  listen-on port $bind { 127.0.0.1; };
		  listen-on-v6 { none; };
		  pid-file "$dir/named.pid";
		  session-keyfile "$dir/session.key";
		  recursion no;
		  dnssec-validation no;
		  notify no;
		};
		controls { };
	CF
	cat >"$dir/unbound.conf" <<-CF
		server:
		  interface: 127.0.0.1@$unbound
		  username: ""
		  chroot: ""
		  directory: "$dir"
		  pidfile: "$dir/unbound.pid"
		  use-syslog: no
		  logfile: ""
		  module-config: "validator iterator"
		  do-not-query-localhost: no
		  do-daemonize: no
		  num-threads: 1
		  local-zone: "test." nodefault
		remote-control:
		  control-enable: no
	CF
	for zone in test acme.test fresh.test mtasv.net; do
		printf 'zone:\n  name: %s\n  zonefile: %s.zone\n' "$zone" "$zone" >>"$dir/nsd.conf"
		printf '  - domain: %s\n' "$zone" >>"$dir/knot.conf"
		printf 'zone "%s" { type master; file "%s/%s.zone"; };\n' "$zone" "$dir" "$zone" >>"$dir/named.conf"
		printf 'stub-zone:\n  name: "%s"\n  stub-addr: 127.0.0.1@%s\n' "$zone" "$nsd" >>"$dir/unbound.conf"
	done

	/usr/sbin/nsd -d -c "$dir/nsd.conf" >"$dir/nsd.log" 2>&1 </dev/null &
	dns_pids+=($!)
	/usr/sbin/knotd -c "$dir/knot.conf" >"$dir/knot.log" 2>&1 </dev/null &
	dns_pids+=($!)
	/usr/sbin/named -g -c "$dir/named.conf" >"$dir/named.log" 2>&1 </dev/null &
	dns_pids+=($!)
	dns_prove "$knot" || { echo "knot does not answer" >&2; tail -n 20 "$dir/knot.log" >&2; return 1; }
	key=$(dns_key "$knot" signed.test)
	[ -n "$key" ] || { echo "knot has not signed signed.test" >&2; tail -n 20 "$dir/knot.log" >&2; return 1; }
	cat >>"$dir/unbound.conf" <<-CF
		server:
		  trust-anchor: "signed.test. 300 IN DNSKEY $key"
		  trust-anchor: "bogus.test. 300 IN DNSKEY $key"
	CF
	for zone in signed.test bogus.test; do
		printf 'stub-zone:\n  name: "%s"\n  stub-addr: 127.0.0.1@%s\n' "$zone" "$knot" >>"$dir/unbound.conf"
	done
	/usr/sbin/unbound -d -c "$dir/unbound.conf" >"$dir/unbound.log" 2>&1 </dev/null &
	dns_pids+=($!)

	for name in nsd:$nsd knot:$knot bind:$bind unbound:$unbound; do
		dns_prove "${name#*:}" || {
			echo "${name%:*} does not answer" >&2
			tail -n 20 "$dir"/*.log >&2
			return 1
		}
	done
	export FLUXLY_TEST_DNS="nsd=127.0.0.1:$nsd knot=127.0.0.1:$knot bind=127.0.0.1:$bind unbound=127.0.0.1:$unbound"
	export FLUXLY_TEST_DNS_FRESH=$dir/fresh.test.zone
	export FLUXLY_TEST_DNS_NSD_PID=${dns_pids[0]}
	export FLUXLY_TEST_PYSPF=/usr/bin/python3 FLUXLY_TEST_JSONSCHEMA=/usr/bin/python3 FLUXLY_TEST_CHROMIUM=/usr/bin/chromium
	echo "name servers: $FLUXLY_TEST_DNS"
}

# dns_prove PORT: the server gives the DMARC record of acme.test.
dns_prove() {
	local i
	for i in $(seq 50); do
		[ -z "$(dig +short +time=1 +tries=1 @127.0.0.1 -p "$1" _dmarc.acme.test TXT 2>/dev/null | grep 'v=DMARC1')" ] || return 0
		sleep 0.1
	done
	return 1
}

# dns_key PORT ZONE: the data of the zone's key-signing key.
dns_key() {
	local i key
	for i in $(seq 50); do
		key=$(dig +short +time=1 +tries=1 @127.0.0.1 -p "$1" "$2" DNSKEY 2>/dev/null | grep '^257 ' | head -n 1)
		[ -z "$key" ] || { echo "$key"; return; }
		sleep 0.1
	done
}

dns_stop() {
	local pid
	for pid in "${dns_pids[@]}"; do
		kill "$pid" 2>/dev/null || :
	done
	for pid in "${dns_pids[@]}"; do
		wait "$pid" 2>/dev/null || :
	done
	dns_pids=()
}
