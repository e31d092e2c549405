package fluxly

// unsubscribeLiteral is what Postmark replaces by the address at which a
// person leaves the stream:
// https://postmarkapp.com/support/article/1208-how-to-add-an-unsubscribe-link
const unsubscribeLiteral = "pm:unsubscribe"

// checkSender returns what is wrong with templates for the sender that mails
// go through. stream is the sender's Message Stream, empty when it has none.
func (s *emailSet) checkSender(sender Sender, stream string) []Problem {
	if smtp, ok := sender.(*SMTPSender); ok && smtp.postmark == nil {
		return s.checkRelay()
	}
	if stream == "" {
		return nil
	}
	return s.checkUnsubscribe()
}

// checkUnsubscribe finds the mails that a person could not leave by.
func (s *emailSet) checkUnsubscribe() []Problem {
	var problems []Problem
	for _, name := range s.sorted {
		for _, v := range s.emails[name].variants {
			if v.settings.Transactional || v.unsubscribes() {
				continue
			}
			reason := `has no unsubscribe link, which all mail needs that is not transactional; write <a href="{{{ pm:unsubscribe }}}">Unsubscribe</a> ` +
				`(in a text part {{{ pm:unsubscribe }}}) into it or its layout, or "Transactional: true" into its header`
			if v.html == nil {
				reason = `has no unsubscribe link, which all mail needs that is not transactional; write {{{ pm:unsubscribe }}} ` +
					`into it or its layout, or "Transactional: true" into its header`
			}
			if !s.underscored {
				reason += `; there is no layout at all: if you have one, embed it by "//go:embed all:DIR", as go:embed leaves out files whose names begin with "_"`
			}
			problems = append(problems, fileProblem(v.file, 0, reason))
		}
	}
	return problems
}

// checkRelay finds what Postmark alone would replace; from any other server it
// reaches people as it is written.
func (s *emailSet) checkRelay() []Problem {
	var problems []Problem
	known := map[Problem]bool{}
	for _, name := range s.sorted {
		for _, v := range s.emails[name].variants {
			for _, l := range v.literals() {
				reason := "{{{ " + l.Name + " }}} is replaced by Postmark alone, and Sender is one of NewSMTP: people would read it as it stands; "
				if l.Name == unsubscribeLiteral {
					reason += "write the address of an unsubscribe page of your own in its place, or use NewPostmarkSMTP"
				} else {
					reason += "write what it stands for, or use NewPostmarkSMTP"
				}
				p := fileProblem(l.File, l.Line, reason)
				if !known[p] {
					known[p] = true
					problems = append(problems, p)
				}
			}
		}
	}
	return problems
}
