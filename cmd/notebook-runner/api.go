package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"mllab.local/internal/incluster"
	"mllab.local/internal/notebook"
)

type api struct{ *incluster.Client }

func newAPI(account string) (api, error) {
	c, err := incluster.New(account)
	return api{c}, err
}

var kinds = map[string]string{
	"ConfigMap": "/api/v1/namespaces/%s/configmaps",
	"Workflow":  "/apis/argoproj.io/v1alpha1/namespaces/%s/workflows",
}

// create creates an object. It returns false, and changes nothing, if the object exists.
func (a api) create(ctx context.Context, kind string, object []byte) (bool, error) {
	_, err := a.Call(ctx, http.MethodPost, fmt.Sprintf(kinds[kind], a.Namespace), object)
	if incluster.Is(err, http.StatusConflict) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("creating the %s: %w", kind, err)
	}
	return true, nil
}

// workflow returns the UID and the status of a Workflow.
func (a api) workflow(ctx context.Context, name string) (string, notebook.Status, error) {
	var object struct {
		Metadata struct{ UID string }
		Status   json.RawMessage
	}
	if err := a.Get(ctx, fmt.Sprintf(kinds["Workflow"], a.Namespace)+"/"+name, &object); err != nil {
		return "", notebook.Status{}, fmt.Errorf("reading Workflow %s: %w", name, err)
	}
	status, err := notebook.ReadStatus(object.Status)
	return object.Metadata.UID, status, err
}

// final reports whether a retry would fail with the same error of the API server.
func final(err error) bool {
	var e *incluster.Error
	return errors.As(err, &e) && e.Final()
}
