package addons

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestTheLabsCAIsAServersCertificateToo(t *testing.T) {
	const host = "webhook.lab.svc"
	cert, key, err := newCA("lab", host)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if ca, err := x509.ParseCertificate(pair.Certificate[0]); err != nil || !ca.IsCA || ca.CheckSignatureFrom(ca) != nil {
		t.Errorf("%+v, %v", ca, err)
	}
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // the client says what is wrong
	srv.StartTLS()
	defer srv.Close()
	// As the API server does with a webhook's caBundle.
	handshake := func(ca []byte, name string) error {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{RootCAs: roots, ServerName: name})
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := handshake(cert, host); err != nil {
		t.Errorf("its own host is refused: %v", err)
	}
	if err := handshake(cert, "other.lab.svc"); err == nil {
		t.Error("it stands for another host")
	}
	if other, _, err := newCA("lab", host); err != nil || handshake(other, host) == nil {
		t.Errorf("another lab's CA stands for it, %v", err)
	}
}
