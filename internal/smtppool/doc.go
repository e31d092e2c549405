// Package smtppool keeps a few authenticated SMTP sessions to one server and
// sends composed mails over them. It knows nothing of what a mail says: it
// takes an envelope and bytes.
//
// go-smtp and go-sasl hold the opening dialogue (greeting, EHLO, AUTH). They
// speak through a guard that reads the wire with this package's own strict
// reply reader and keeps deadlines, and the transactions are written here, so
// that three rules hold whatever the server does: no read and no memory
// without a bound, no mail ended that was not whole, and no second try of a
// mail that the server may have taken.
//
// Behaviour follows RFC 5321 (SMTP), RFC 3207 (STARTTLS), RFC 4954 (AUTH),
// RFC 1870 (SIZE), RFC 2920 (PIPELINING) and RFC 3463 (enhanced status codes).
package smtppool
