# Sourced by .ci/run: a Postfix of its own on a loopback port, as a relay that
# wants STARTTLS and a login and delivers into a Maildir.
#
#   postfix_start DIR   installs, starts, proves it with swaks, exports FLUXLY_TEST_SMTP_*
#   postfix_stop        ends what was started
#
# Nothing of the machine's own Postfix is used or changed: configuration, queue,
# certificates, accounts and mail are all under DIR. Needs root, as Postfix does.

postfix_master=

postfix_install() {
	local missing=()
	command -v postfix >/dev/null || missing+=(postfix)
	command -v saslpasswd2 >/dev/null || missing+=(sasl2-bin libsasl2-modules libsasl2-modules-db)
	command -v swaks >/dev/null || missing+=(swaks libnet-ssleay-perl)
	command -v openssl >/dev/null || missing+=(openssl)
	[ ${#missing[@]} -eq 0 ] && return
	export DEBIAN_FRONTEND=noninteractive
	# Without this the package would set up, and maybe start, a mail server of
	# the machine.
	echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
	apt-get -o DPkg::Lock::Timeout=300 -qq update
	apt-get -o DPkg::Lock::Timeout=300 -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# postfix_certificates DIR: an authority and a certificate for localhost.
postfix_certificates() {
	local d=$1
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
		-keyout "$d/ca.key" -out "$d/ca.pem" -subj "/CN=fluxly ci authority" \
		-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign 2>/dev/null
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
		-keyout "$d/server.key" -out "$d/server.csr" -subj "/CN=localhost" 2>/dev/null
	openssl x509 -req -in "$d/server.csr" -CA "$d/ca.pem" -CAkey "$d/ca.key" -CAcreateserial -days 2 \
		-extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n') \
		-out "$d/server.pem" 2>/dev/null
}

# postfix_port: a loopback port that is free now.
postfix_port() {
	local port
	for port in $(shuf -i 20000-32000 -n 50); do
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
	done
	echo "no free port between 20000 and 32000" >&2
	return 1
}

postfix_start() {
	local dir=$1/postfix conf=$1/postfix/conf port user=relay password
	postfix_install
	mkdir -p "$conf/sasl" "$dir/queue" "$dir/data" "$dir/tls" "$dir/mail/Maildir"/{cur,new,tmp}
	chmod 755 "$1" "$dir"
	port=$(postfix_port)
	password=$(openssl rand -hex 16)
	postfix_certificates "$dir/tls"

	cat >"$conf/main.cf" <<-CF
		compatibility_level = 3.6
		queue_directory = $dir/queue
		data_directory = $dir/data
		command_directory = /usr/sbin
		daemon_directory = /usr/lib/postfix/sbin
		meta_directory = /etc/postfix
		shlib_directory = /usr/lib/postfix
		mail_owner = postfix
		setgid_group = postdrop
		maillog_file = $dir/log/postfix.log
		maillog_file_prefixes = $dir/log
		myhostname = localhost
		mydestination =
		mynetworks =
		inet_interfaces = loopback-only
		inet_protocols = ipv4
		alias_maps =
		alias_database =
		local_transport = error:no local mail here
		default_transport = error:no mail leaves this server

		smtpd_tls_security_level = encrypt
		smtpd_tls_cert_file = $dir/tls/server.pem
		smtpd_tls_key_file = $dir/tls/server.key
		smtpd_tls_auth_only = yes
		smtpd_sasl_auth_enable = yes
		smtpd_sasl_type = cyrus
		smtpd_sasl_path = smtpd
		cyrus_sasl_config_path = $conf/sasl
		smtpd_sasl_local_domain = localhost
		smtpd_sasl_security_options = noanonymous
		smtpd_relay_restrictions = permit_sasl_authenticated, reject
		# Two addresses that are refused once the client has logged in.
		smtpd_recipient_restrictions = reject_plaintext_session,
		  check_recipient_access inline:{ { refused@acme.test = 550 5.1.1 no such user }, { later@acme.test = 450 4.2.0 mailbox is busy } },
		  permit_sasl_authenticated, reject
		smtpd_client_connection_count_limit = 0
		smtpd_client_connection_rate_limit = 0
		smtpd_forbid_bare_newline = yes

		virtual_mailbox_domains = acme.test
		virtual_mailbox_maps = static:Maildir/
		virtual_mailbox_base = $dir/mail
		virtual_uid_maps = static:$(id -u postfix)
		virtual_gid_maps = static:$(id -g postfix)
	CF
	cat >"$conf/master.cf" <<-CF
		127.0.0.1:$port inet n - n - - smtpd
		cleanup   unix n - n - 0   cleanup
		qmgr      unix n - n 300 1 qmgr
		tlsmgr    unix - - n 1000? 1 tlsmgr
		rewrite   unix - - n - - trivial-rewrite
		bounce    unix - - n - 0 bounce
		defer     unix - - n - 0 bounce
		trace     unix - - n - 0 bounce
		error     unix - - n - - error
		retry     unix - - n - - error
		discard   unix - - n - - discard
		virtual   unix - n n - - virtual
		proxymap  unix - - n - - proxymap
		anvil     unix - - n - 1 anvil
		scache    unix - - n - 1 scache
		flush     unix n - n 1000? 0 flush
		showq     unix n - n - - showq
		postlog   unix-dgram n - n - 1 postlogd
	CF
	cat >"$conf/sasl/smtpd.conf" <<-CF
		pwcheck_method: auxprop
		auxprop_plugin: sasldb
		mech_list: PLAIN LOGIN
		sasldb_path: $dir/sasldb2
	CF
	mkdir -p "$dir/log"
	printf '%s' "$password" | saslpasswd2 -p -c -f "$dir/sasldb2" -u localhost "$user"
	chown postfix "$dir/sasldb2" "$dir/data"
	chown -R postfix: "$dir/mail"

	postfix -c "$conf" start >"$dir/log/start" 2>&1 </dev/null || {
		cat "$dir/log"/* >&2
		return 1
	}
	postfix_master=$(tr -d ' ' <"$dir/queue/pid/master.pid")

	export FLUXLY_TEST_SMTP_ADDR=127.0.0.1:$port
	export FLUXLY_TEST_SMTP_CA=$dir/tls/ca.pem
	export FLUXLY_TEST_SMTP_USER=$user@localhost
	export FLUXLY_TEST_SMTP_PASSWORD=$password
	export FLUXLY_TEST_SMTP_RCPT=ann@acme.test
	export FLUXLY_TEST_SMTP_MAILDIR=$dir/mail/Maildir
	postfix_prove "$port" || {
		cat "$dir/log"/* >&2
		return 1
	}
	echo "Postfix $(postconf -c "$conf" -h mail_version) on $FLUXLY_TEST_SMTP_ADDR, pid $postfix_master"
}

# postfix_prove PORT: the server takes a mail with TLS and login, and refuses
# one without, so that a test that passes against it means something.
postfix_prove() {
	local port=$1 i found
	for i in $(seq 100); do
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
		kill -0 "$postfix_master" 2>/dev/null || { echo "postfix ended while starting" >&2; return 1; }
		sleep 0.1
	done
	local swaks=(swaks --server 127.0.0.1 --port "$port" --from hello@acme.test --to ann@acme.test --timeout 20s
		--tls-verify --tls-ca-path "$FLUXLY_TEST_SMTP_CA" --header "Subject: proof" --silent 2)
	"${swaks[@]}" --tls --auth PLAIN --auth-user "$FLUXLY_TEST_SMTP_USER" --auth-password "$FLUXLY_TEST_SMTP_PASSWORD" --auth-hide-password ||
		{ echo "swaks could not send with TLS and login" >&2; return 1; }
	if "${swaks[@]}" --tls --auth PLAIN --auth-user "$FLUXLY_TEST_SMTP_USER" --auth-password wrong >/dev/null 2>&1; then
		echo "postfix took a wrong password" >&2
		return 1
	fi
	if "${swaks[@]}" --tls >/dev/null 2>&1 || "${swaks[@]}" >/dev/null 2>&1; then
		echo "postfix took a mail without login or without TLS" >&2
		return 1
	fi
	for i in $(seq 100); do
		found=$(grep -rl '^Subject: proof' "$FLUXLY_TEST_SMTP_MAILDIR/new" || :)
		[ -n "$found" ] && break
		sleep 0.1
	done
	[ -n "$found" ] || { echo "the mail did not land in the Maildir" >&2; return 1; }
	rm -f $found
}

# postfix_stop ends the master, which ends its children, and waits for it.
postfix_stop() {
	[ -n "$postfix_master" ] || return 0
	kill "$postfix_master" 2>/dev/null || :
	while kill -0 "$postfix_master" 2>/dev/null; do sleep 0.1; done
	postfix_master=
}
