// SPDX-License-Identifier: Apache-2.0

package bundle

// Certificate is a TypeCertificate record: the wire form of one onionid.Certificate, and nothing else.
type Certificate []byte

// Record is c as it is; ErrMalformed if it is empty, ErrTooLarge above 1,024 bytes.
func (c Certificate) Record() (Record, error) {
	if _, err := ParseCertificate(c); err != nil {
		return Record{}, err
	}
	return Record{Type: TypeCertificate, Data: c}, nil
}

// ParseCertificate checks the size alone (1 to 1,024 bytes): onionid.ParseCertificate checks the rest. The result is data.
func ParseCertificate(data []byte) (Certificate, error) {
	r := &reader{b: data}
	if len(data) == 0 {
		r.fail(ErrMalformed, "it is empty")
	}
	if len(data) > maxCertificate {
		r.fail(ErrTooLarge, "its size")
	}
	r.b = nil
	if err := r.end("a certificate"); err != nil {
		return nil, err
	}
	return Certificate(data), nil
}
