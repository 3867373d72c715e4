package addons

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// caLife is how long a CA that the lab makes for itself is valid.
const caLife = 10 * 365 * 24 * time.Hour

// caBits is the size of its key. It is an RSA key because cert-controller, which
// JobSet and Trainer have in them, reads no other.
const caBits = 2048

// newCA makes a certificate authority that signs for this lab only, and is at
// the same time the certificate of a server of these names: certificate and key,
// in PEM.
func newCA(organization string, hosts ...string) (cert, key []byte, err error) {
	private, err := rsa.GenerateKey(rand.Reader, caBits)
	if err != nil {
		return nil, nil, fmt.Errorf("making a CA: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("making a CA: %w", err)
	}
	now := time.Now()
	about := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{organization}},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(caLife), // clocks differ
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		DNSNames: hosts, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, private.Public(), private)
	if err != nil {
		return nil, nil, fmt.Errorf("making a CA: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}), nil
}
