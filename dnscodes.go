package fluxly

// findingEntry is what is fixed about a code.
type findingEntry struct {
	level DomainLevel
	area  string
	rfc   string
	why   string
}

const (
	whyDKIM   = "Without a sound DKIM key, mail cannot prove that it comes from you; Postmark will not send it, or it lands in spam."
	whySPF    = "Receivers treat the whole SPF record as an error. That harms mail which others than Postmark send for the domain."
	whyDMARC  = "Large receivers ask senders for a DMARC record, and without one anybody can send in your name."
	whyReturn = "With the alias, bounces go to a host under your own domain, and SPF counts for DMARC beside DKIM."
	whySpoof  = "Anybody can send mail in your name from there, and it passes SPF."
)

// findingCatalogue holds every code. A code is never renamed or used for
// something else.
var findingCatalogue = map[string]findingEntry{
	"dkim_no_selector":     {DomainUnknown, "DKIM", "RFC 6376 section 3.1", "DKIM is what decides whether mail through Postmark passes DMARC."},
	"dkim_unasked":         {DomainUnknown, "DKIM", "RFC 6376 section 3.6.2", ""},
	"dkim_missing":         {DomainFail, "DKIM", "RFC 6376 section 3.6.2", whyDKIM},
	"dkim_doubled_host":    {DomainFail, "DKIM", "RFC 6376 section 3.6.2.1", whyDKIM},
	"dkim_multiple":        {DomainFail, "DKIM", "RFC 6376 section 3.6.2.2", "Which key a verifier takes is undefined, so signatures fail at random."},
	"dkim_not_a_key":       {DomainFail, "DKIM", "RFC 6376 section 3.6.1", whyDKIM},
	"dkim_other_txt":       {DomainWarn, "DKIM", "RFC 6376 section 3.6.2.2", "A verifier that takes the wrong record finds no key."},
	"dkim_address":         {DomainFail, "DKIM", "RFC 6376 section 3.6.2", whyDKIM},
	"dkim_cname":           {DomainInfo, "DKIM", "RFC 1034 section 3.6.2", "The key is then in the hands of whoever runs the target."},
	"dkim_cname_dangling":  {DomainFail, "DKIM", "RFC 1034 section 3.6.2", whyDKIM},
	"dkim_cname_loop":      {DomainFail, "DKIM", "RFC 1034 section 3.6.2", whyDKIM},
	"dkim_key_differs":     {DomainFail, "DKIM", "RFC 6376 section 6.1.2", "Postmark's signatures do not verify with this key, so every mail fails DKIM."},
	"dkim_revoked":         {DomainFail, "DKIM", "RFC 6376 section 3.6.1", "Signatures with this selector fail."},
	"dkim_syntax":          {DomainFail, "DKIM", "RFC 6376 section 3.2", "A verifier that cannot read the record treats it as no key."},
	"dkim_empty_tag":       {DomainWarn, "DKIM", "RFC 6376 section 3.2", "The grammar does not allow it."},
	"dkim_version":         {DomainFail, "DKIM", "RFC 6376 section 3.6.1", "Verifiers must discard such a record."},
	"dkim_no_p":            {DomainFail, "DKIM", "RFC 6376 section 3.6.1", whyDKIM},
	"dkim_base64":          {DomainFail, "DKIM", "RFC 6376 section 3.6.1", "The key cannot be decoded, so every signature fails."},
	"dkim_not_rsa":         {DomainFail, "DKIM", "RFC 6376 section 3.6.1", "The key cannot be decoded, so every signature fails."},
	"dkim_key_type":        {DomainFail, "DKIM", "RFC 6376 section 3.6.1", "Verifiers ignore keys of a type that they do not know."},
	"dkim_ed25519":         {DomainFail, "DKIM", "RFC 8463 section 4", "The key cannot be used."},
	"dkim_rsa_short":       {DomainFail, "DKIM", "RFC 8301 section 3.2", "Verifiers must not accept such a key."},
	"dkim_rsa_1024":        {DomainInfo, "DKIM", "RFC 8301 section 3.2", "1024 bits is the least allowed; 2048 is advised where the choice is yours."},
	"dkim_rsa_long":        {DomainWarn, "DKIM", "RFC 8301 section 3.2", "Verifiers need not handle keys over 4096 bits."},
	"dkim_testing":         {DomainWarn, "DKIM", "RFC 6376 section 3.6.1", "Receivers may treat the mail as unsigned."},
	"dkim_sha1_only":       {DomainFail, "DKIM", "RFC 8301 section 3.1", "sha1 is no longer accepted, and Postmark does not use it."},
	"dkim_no_email":        {DomainFail, "DKIM", "RFC 6376 section 3.6.1", "Verifiers must ignore the key for mail."},
	"dkim_pending_missing": {DomainWarn, "DKIM", "", "The exchange of the key cannot be completed before it is there."},
	"dkim_remove_revoked":  {DomainInfo, "DKIM", "RFC 6376 section 3.6.1", "A key that nobody uses is one more that can be stolen."},

	"returnpath_unasked":      {DomainUnknown, "Return-Path", "", ""},
	"returnpath_missing":      {DomainFail, "Return-Path", "RFC 9989 section 4.4.2", whyReturn},
	"returnpath_wrong_target": {DomainFail, "Return-Path", "RFC 9989 section 4.4.2", whyReturn},
	"returnpath_address":      {DomainFail, "Return-Path", "RFC 9989 section 4.4.2", whyReturn},
	"returnpath_beside":       {DomainWarn, "Return-Path", "RFC 1034 section 3.6.2", "Servers may answer with either, so bounces and SPF work at random."},

	"spf_unasked":           {DomainUnknown, "SPF", "RFC 7208 section 4.4", ""},
	"spf_missing":           {DomainInfo, "SPF", "RFC 7208 section 4.5", "Mail through Postmark does not need one: SPF is checked on the envelope domain, which is Postmark's or the Return-Path alias."},
	"spf_multiple":          {DomainFail, "SPF", "RFC 7208 section 4.5", whySPF},
	"spf_syntax":            {DomainFail, "SPF", "RFC 7208 section 4.6", whySPF},
	"spf_loop":              {DomainFail, "SPF", "RFC 7208 section 4.6.4", whySPF},
	"spf_target_missing":    {DomainFail, "SPF", "RFC 7208 sections 5.2 and 6.1", whySPF},
	"spf_target_multiple":   {DomainFail, "SPF", "RFC 7208 section 4.5", whySPF},
	"spf_too_many_lookups":  {DomainFail, "SPF", "RFC 7208 section 4.6.4", whySPF},
	"spf_many_lookups":      {DomainInfo, "SPF", "RFC 7208 section 4.6.4", "One more sender may push the record over the limit."},
	"spf_too_many_voids":    {DomainFail, "SPF", "RFC 7208 section 4.6.4", "Many receivers treat this as an error of the whole record."},
	"spf_many_voids":        {DomainWarn, "SPF", "RFC 7208 section 4.6.4", "One more term that finds nothing makes the whole record an error."},
	"spf_too_many_mx":       {DomainFail, "SPF", "RFC 7208 section 4.6.4", whySPF},
	"spf_pass_all":          {DomainFail, "SPF", "RFC 7208 section 5.1", whySpoof},
	"spf_wide_network":      {DomainFail, "SPF", "RFC 7208 section 5.6", whySpoof},
	"spf_repeated_version":  {DomainWarn, "SPF", "RFC 7208 section 4.5", "Receivers skip it, and some treat the record as an error."},
	"spf_ignored_term":      {DomainWarn, "SPF", "RFC 7208 section 6", "The sender that it names is not authorised."},
	"spf_split":             {DomainFail, "SPF", "RFC 7208 section 3.3", "The strings of a record are joined without a blank, so two terms run into one and the record is an error."},
	"spf_cut":               {DomainFail, "SPF", "RFC 7208 section 3.3", "Whatever stood behind the cut does not count: those senders are not authorised."},
	"spf_neutral_all":       {DomainWarn, "SPF", "RFC 7208 section 8.2", "The record does not protect the domain."},
	"spf_no_all":            {DomainWarn, "SPF", "RFC 7208 section 4.7", "The record does not protect the domain."},
	"spf_after_all":         {DomainWarn, "SPF", "RFC 7208 section 5.1", "What stands there was meant to count and does not."},
	"spf_dead_redirect":     {DomainWarn, "SPF", "RFC 7208 section 6.1", "What stands there was meant to count and does not."},
	"spf_ptr":               {DomainWarn, "SPF", "RFC 7208 section 5.5", "Large receivers skip it."},
	"spf_same_include":      {DomainInfo, "SPF", "RFC 7208 section 4.6.4", "It spends look-ups for nothing."},
	"spf_covered_network":   {DomainInfo, "SPF", "RFC 7208 section 5.6", "It does no harm and may be taken out."},
	"spf_long_record":       {DomainWarn, "SPF", "RFC 7208 section 3.4", "A reply that does not fit into one packet is lost behind some firewalls."},
	"spf_large_set":         {DomainWarn, "SPF", "RFC 7208 section 3.4", "A reply that does not fit into one packet is lost behind some firewalls."},
	"spf_sender_id":         {DomainWarn, "SPF", "RFC 7208 section 3.1", "It misleads whoever reads the zone."},
	"spf_type99":            {DomainWarn, "SPF", "RFC 7208 section 3.1", "It misleads whoever reads the zone."},
	"spf_wrong_host":        {DomainWarn, "SPF", "RFC 7208 section 4.4", "The record has no effect where it stands."},
	"spf_near_miss":         {DomainWarn, "SPF", "RFC 7208 section 4.5", "Receivers see no SPF record in it."},
	"spf_void_term":         {DomainWarn, "SPF", "RFC 7208 section 4.6.4", "The term authorises nobody, and only two look-ups of a record may find nothing."},
	"spf_include_absent":    {DomainInfo, "SPF", "RFC 7208 section 2.4", "SPF is checked on the envelope domain, which is Postmark's or the Return-Path alias. The include would not help DMARC; it only spends one of ten look-ups."},
	"spf_include_qualified": {DomainWarn, "SPF", "RFC 7208 section 4.6.2", "It was surely meant as a permission."},

	"dmarc_unasked":             {DomainUnknown, "DMARC", "RFC 9989 section 4.10", ""},
	"dmarc_missing":             {DomainFail, "DMARC", "RFC 9989 section 4.10", whyDMARC},
	"dmarc_multiple":            {DomainFail, "DMARC", "RFC 9989 section 4.10", whyDMARC},
	"dmarc_at_apex":             {DomainFail, "DMARC", "RFC 9989 section 4.10", whyDMARC},
	"dmarc_doubled_host":        {DomainFail, "DMARC", "RFC 9989 section 4.10", whyDMARC},
	"dmarc_near_miss":           {DomainFail, "DMARC", "RFC 9989 section 4.7", whyDMARC},
	"dmarc_other_txt":           {DomainWarn, "DMARC", "RFC 9989 section 4.10", "It does no harm today, and hides mistakes."},
	"dmarc_syntax":              {DomainWarn, "DMARC", "RFC 9989 section 4.7", "Receivers ignore what they cannot read, each in its own way."},
	"dmarc_duplicate_tag":       {DomainFail, "DMARC", "RFC 9989 section 4.7", "A record with a tag twice is an error as a whole."},
	"dmarc_empty_tag":           {DomainWarn, "DMARC", "RFC 9989 section 4.7", "The grammar does not allow it."},
	"dmarc_bad_policy":          {DomainFail, "DMARC", "RFC 9989 section 4.7", whyDMARC},
	"dmarc_no_policy":           {DomainWarn, "DMARC", "RFC 9989 section 4.7", "The record does not say what it was meant to say."},
	"dmarc_bad_value":           {DomainWarn, "DMARC", "RFC 9989 section 4.7", "The record does not say what it was meant to say."},
	"dmarc_unknown_tag":         {DomainInfo, "DMARC", "RFC 9989 section 4.7", "It may be a misspelt tag."},
	"dmarc_removed_tag":         {DomainInfo, "DMARC", "RFC 9989 section 4.7", "Older receivers may still act on it."},
	"dmarc_size_limit":          {DomainInfo, "DMARC", "RFC 9989 section 4.7", "Older receivers may still act on it."},
	"dmarc_testing":             {DomainInfo, "DMARC", "RFC 9989 section 4.7", "It is meant for a time of trial."},
	"dmarc_p_none":              {DomainInfo, "DMARC", "RFC 9989 section 4.7", "It is the right start; forged mail is stopped only from quarantine on."},
	"dmarc_sp_weaker":           {DomainWarn, "DMARC", "RFC 9989 section 4.7", "A forger takes the name that is protected least."},
	"dmarc_np_weaker":           {DomainWarn, "DMARC", "RFC 9989 section 4.7", "A forger takes the name that is protected least."},
	"dmarc_inherited":           {DomainInfo, "DMARC", "RFC 9989 section 4.10", "A record of its own would let the subdomain go its own way."},
	"dmarc_suffix":              {DomainWarn, "DMARC", "RFC 9989 section 4.10", "Large receivers look for a record of the sender itself."},
	"dmarc_no_reports":          {DomainWarn, "DMARC", "RFC 9989 section 4.7", "Without reports nobody can tell when a stricter policy is safe."},
	"dmarc_report_uri":          {DomainWarn, "DMARC", "RFC 9989 section 4.7", "Reports are lost."},
	"dmarc_many_reports":        {DomainWarn, "DMARC", "RFC 9989 section 4.7", "Reports to the others may not be sent."},
	"dmarc_fo":                  {DomainWarn, "DMARC", "RFC 9989 section 4.7", "Receivers ignore the tag."},
	"dmarc_report_unauthorised": {DomainWarn, "DMARC", "RFC 9989 section 4.7", "Reports are lost."},
	"dmarc_report_unasked":      {DomainUnknown, "DMARC", "RFC 9989 section 4.7", ""},
	"dmarc_report_no_mx":        {DomainWarn, "DMARC", "RFC 5321 section 5.1", "Reports are lost."},

	"align_none":       {DomainFail, "Alignment", "RFC 9989 section 4.4", "Mail fails DMARC, and receivers treat it as the policy says or as spam."},
	"align_dkim":       {DomainWarn, "Alignment", "RFC 9989 section 4.4.1", "A forwarded mail keeps its signature but not its envelope, so it needs DKIM."},
	"align_spf_strict": {DomainInfo, "Alignment", "RFC 9989 section 4.4.2", "DKIM alone is enough to pass."},

	"zone_cache_only":       {DomainInfo, "Zone", "RFC 2308 section 5", "Caches remember for a while what was there, and also what was not there."},
	"zone_cached":           {DomainInfo, "Zone", "RFC 2308 section 5", "This report goes by the zone itself; receivers will follow."},
	"zone_server_dead":      {DomainWarn, "Zone", "RFC 2182 section 4", "Receivers that happen to ask this server wait, or give up."},
	"zone_servers_disagree": {DomainWarn, "Zone", "RFC 1034 section 4.3.5", "Receivers see the one or the other by chance."},
	"zone_resolver_fails":   {DomainWarn, "Zone", "RFC 4035 section 5.5", "Receivers whose resolvers fail alike treat your records as unreachable."},
	"zone_long_ttl":         {DomainWarn, "Zone", "RFC 1035 section 3.2.1", "Mistakes and corrections both live that long."},

	"postmark_dkim":        {DomainFail, "postmark", "", "Postmark sends for a domain only when it has seen the key, or signs with a domain that is not yours."},
	"postmark_return_path": {DomainInfo, "postmark", "", "Postmark then uses a bounce address of its own, which works and does not count for your domain."},
	"postmark_dmarc":       {DomainWarn, "postmark", "RFC 9989 section 4.10", "Postmark sends without it; Gmail, Yahoo and Microsoft expect it."},
	"postmark_unknown":     {DomainUnknown, "postmark", "", ""},

	"bulk_alignment": {DomainFail, "bulk-sender", "RFC 9989 section 4.4", "Gmail, Yahoo and Microsoft refuse or junk bulk mail without it."},
	"bulk_dmarc":     {DomainFail, "bulk-sender", "RFC 9989 section 4.7", "Gmail, Yahoo and Microsoft refuse or junk bulk mail without it."},
	"bulk_spf":       {DomainFail, "bulk-sender", "RFC 7208 section 4.6", "Gmail, Yahoo and Microsoft refuse or junk bulk mail without it."},
	"bulk_unknown":   {DomainUnknown, "bulk-sender", "", ""},

	"bimi_unasked":  {DomainUnknown, "bimi", "", ""},
	"bimi_missing":  {DomainInfo, "bimi", "", "Without it receivers show no logo beside the mail."},
	"bimi_multiple": {DomainInfo, "bimi", "", "Receivers show no logo."},
	"bimi_syntax":   {DomainInfo, "bimi", "", "Receivers show no logo."},
	"bimi_policy":   {DomainInfo, "bimi", "", "Receivers show no logo."},

	"mtasts_unasked":  {DomainUnknown, "mta-sts", "RFC 8461 section 3.1", ""},
	"mtasts_missing":  {DomainInfo, "mta-sts", "RFC 8461 section 3.1", "It protects mail to the domain, not from it."},
	"mtasts_multiple": {DomainInfo, "mta-sts", "RFC 8461 section 3.1", "Senders treat the domain as having none."},
	"mtasts_syntax":   {DomainInfo, "mta-sts", "RFC 8461 section 3.1", "Senders treat the domain as having none."},

	"tlsrpt_unasked":  {DomainUnknown, "tls-rpt", "RFC 8460 section 3", ""},
	"tlsrpt_missing":  {DomainInfo, "tls-rpt", "RFC 8460 section 3", "It has others report when mail to the domain cannot be encrypted."},
	"tlsrpt_multiple": {DomainInfo, "tls-rpt", "RFC 8460 section 3", "Senders report nothing."},
	"tlsrpt_syntax":   {DomainInfo, "tls-rpt", "RFC 8460 section 3", "Senders report nothing."},

	"dnssec_unasked":  {DomainUnknown, "dnssec", "RFC 4035 section 5", ""},
	"dnssec_unsigned": {DomainInfo, "dnssec", "RFC 4035 section 5", "Nothing in mail through Postmark needs it."},
	"dnssec_bogus":    {DomainFail, "dnssec", "RFC 4035 section 5.5", "Receivers that validate cannot see any of your records."},

	"mail_unasked": {DomainUnknown, "Mail host", "RFC 5321 section 5.1", ""},
	"mail_no_host": {DomainWarn, "Mail host", "RFC 5321 section 5.1", "People answer lifecycle mail, and receivers check that the sender can be reached."},
	"mail_null_mx": {DomainWarn, "Mail host", "RFC 7505 section 4.2", "Receivers may refuse mail from a domain that takes none."},
}

// spfFixes says what to do about each of the linter's codes.
var spfFixes = map[string]string{ //nolint:gosec // G101 takes "token" and the like for credentials
	"syntax":           "Correct the term; a blank stands between two terms and nowhere else.",
	"loop":             "Take one of the includes out of the circle.",
	"target_missing":   "Take the term out, or have an SPF record published there.",
	"target_multiple":  "Keep exactly one SPF record there.",
	"too_many_lookups": "Take out senders that are no longer used, or move one to a subdomain of its own.",
	"many_lookups":     "",
	"too_many_voids":   "Take out the terms that find nothing.",
	"many_voids":       "Take out the terms that find nothing.",
	"too_many_mx":      "Replace the mx term by the addresses it stands for (ip4:, ip6:).",
	"pass_all":         "Write ~all in its place.",
	"wide_network":     "Name the networks that really send, with longer prefixes.",
	"repeated_version": "Keep v=spf1 at the start only, and one \"all\" at the end.",
	"ignored_term":     "Write a colon in place of the equals sign.",
	"neutral_all":      "Write ~all in its place.",
	"no_all":           "Add ~all at the end.",
	"after_all":        "Move it before \"all\", or delete it.",
	"dead_redirect":    "Delete either the redirect or \"all\".",
	"ptr":              "Replace it by the addresses it stands for (ip4:, ip6:), or delete it.",
	"same_include":     "Delete one of them.",
	"covered_network":  "Delete it if you like.",
	"long_record":      "Take out what is no longer used.",
	"void_term":        "Delete the term, or publish the record that it looks for.",
	"unasked":          "Run the check again. This says nothing about whether the record is there.",
}
