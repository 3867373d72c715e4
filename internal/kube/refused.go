package kube

import (
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Refused reports whether err is the API server's refusal of an object for a reason with these words; with none, for
// whatever reason. A Status has the reason of a policy or a webhook in its message only, and no field that names either.
func Refused(err error, words string) bool {
	return (apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err)) && strings.Contains(err.Error(), words)
}
