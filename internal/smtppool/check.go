package smtppool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// maxDataLine is RFC 5321 section 4.5.3.1.6: 1,000 bytes with the line end.
const maxDataLine = 998

var errEmpty = errors.New("mail is empty")

// checkData refuses bytes that servers would read in different ways: bare CR
// or LF (which lets one mail pass for two), NUL, lines that are too long, and
// 8-bit bytes (mail is composed as 7-bit, so that 8BITMIME never matters).
func checkData(data []byte) error {
	if len(data) == 0 {
		return errEmpty
	}
	lines, start := 0, 0
	for start < len(data) {
		i := bytes.IndexByte(data[start:], '\n')
		length := i - 1
		if i < 0 {
			length = len(data) - start
		} else {
			if i == 0 || data[start+i-1] != '\r' {
				return fmt.Errorf("line feed without carriage return at byte %d", start+i)
			}
			lines++
		}
		if length > maxDataLine {
			return fmt.Errorf("line of %d bytes at byte %d: at most %d", length, start, maxDataLine)
		}
		if i < 0 {
			break
		}
		start += i + 1
	}
	if bytes.Count(data, []byte{'\r'}) != lines {
		return errors.New("carriage return without line feed")
	}
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return fmt.Errorf("NUL at byte %d", i)
	}
	if i := indexHigh(data); i >= 0 {
		return fmt.Errorf("8-bit byte 0x%02x at byte %d: compose the mail as 7-bit", data[i], i)
	}
	return nil
}

// indexHigh is the index of the first byte over 0x7f, or -1.
func indexHigh(b []byte) int {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		if binary.LittleEndian.Uint64(b[i:])&0x8080808080808080 != 0 {
			break
		}
	}
	for ; i < len(b); i++ {
		if b[i] >= 0x80 {
			return i
		}
	}
	return -1
}

// checkAddress refuses what could end the path in MAIL or RCPT and begin a
// parameter. Quoted local parts pass when they hold none of that.
func checkAddress(name, addr string) error {
	if addr == "" {
		return errors.New(name + " address is empty")
	}
	if len(addr) > 254 { // RFC 5321 section 4.5.3.1.3: 256 with the brackets
		return fmt.Errorf("%s address of %d bytes: at most 254", name, len(addr))
	}
	for i := range len(addr) {
		if c := addr[i]; c <= ' ' || c >= 0x7f || c == '<' || c == '>' {
			return fmt.Errorf("%s address %s: character %q cannot be in an SMTP path", name, strconv.Quote(addr), c)
		}
	}
	return nil
}
