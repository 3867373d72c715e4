package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// protocols adds what clients of model servers in general know: KServe's first protocol, and the Open Inference Protocol,
// which is also called KServe's v2.
//
// https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
// https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
func (a *app) protocols(mux *http.ServeMux) {
	get := func(path string, f func() answer) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { f().write(w) })
	}
	v1, v2 := "/v1/models/"+a.trained.Name, "/v2/models/"+a.trained.Name
	get(v1, a.modelReady)
	mux.Handle("POST "+v1+":predict", a.model(a.input(a.predictV1)))

	metadata := jsonAnswer(http.StatusOK, serverMetadata{Name: "sampleapp", Version: a.target, Extensions: []string{}})
	get("/v2", func() answer { return metadata })
	get("/v2/{$}", func() answer { return metadata })
	get("/v2/health/live", func() answer { return jsonAnswer(http.StatusOK, map[string]bool{"live": true}) })
	get("/v2/health/ready", func() answer { return a.readyAnswer(map[string]any{}) })
	get(v2, func() answer { return jsonAnswer(http.StatusOK, a.metadata()) })
	get(v2+"/ready", a.modelReady)
	mux.Handle("POST "+v2+"/infer", a.model(a.input(a.inferV2)))

	elsewhere := func(w http.ResponseWriter, r *http.Request) {
		refusal(http.StatusNotFound, fmt.Errorf("there is no %s %s: the model is %s", r.Method, r.URL.Path, a.trained.Name)).write(w)
	}
	mux.HandleFunc("/v1/", elsewhere)
	mux.HandleFunc("/v2/", elsewhere)
}

func (a *app) modelReady() answer { return a.readyAnswer(map[string]any{"name": a.trained.Name}) }

// readyAnswer adds to fields whether requests should come here.
func (a *app) readyAnswer(fields map[string]any) answer {
	if why := a.unready(); why != "" {
		fields["ready"], fields["error"] = false, why
		return jsonAnswer(http.StatusServiceUnavailable, fields)
	}
	fields["ready"] = true
	return jsonAnswer(http.StatusOK, fields)
}

// predictV1 answers {"instances":[[…],…]} with {"predictions":[class,…]}.
func (a *app) predictV1(body []byte) (prediction []float64, out any, err error) {
	instances, err := readInput(body)
	if err != nil {
		return nil, nil, err
	}
	classes, _, err := a.trained.predict(instances, a.driftPercent)
	return classes, map[string]any{"predictions": classes}, err
}

type serverMetadata struct {
	Name       string   `json:"name"`
	Version    string   `json:"version"`
	Extensions []string `json:"extensions"`
}

type modelMetadata struct {
	Name     string   `json:"name"`
	Platform string   `json:"platform"`
	Inputs   []tensor `json:"inputs"`
	Outputs  []tensor `json:"outputs"`
}

// tensor is described by the model's metadata, where the number of instances is -1, or comes with its data.
type tensor struct {
	Name     string `json:"name"`
	Datatype string `json:"datatype"`
	Shape    []int  `json:"shape"`
	Data     any    `json:"data,omitempty"`
}

type inferRequest struct {
	ID     string `json:"id"`
	Inputs []struct {
		Datatype string          `json:"datatype"`
		Shape    []int           `json:"shape"`
		Data     json.RawMessage `json:"data"`
	} `json:"inputs"`
	Outputs []struct {
		Name string `json:"name"`
	} `json:"outputs"`
}

type inferResponse struct {
	ModelName string   `json:"model_name"`
	ID        string   `json:"id,omitempty"`
	Outputs   []tensor `json:"outputs"`
}

const inferExample = `{"inputs": [{"name": "input-0", "datatype": "FP64", "shape": [1, 2], "data": [0.5, 1.5]}]}`

func (a *app) metadata() modelMetadata {
	return modelMetadata{
		Name: a.trained.Name, Platform: a.trained.Kind,
		Inputs: []tensor{{Name: "input-0", Datatype: "FP64", Shape: []int{-1, len(a.trained.Features)}}},
		Outputs: []tensor{
			{Name: "predictions", Datatype: "INT64", Shape: []int{-1}},
			{Name: "probabilities", Datatype: "FP64", Shape: []int{-1, len(a.trained.Classes)}},
		},
	}
}

// inferV2 answers one tensor of instances with the outputs that are asked for, or with all.
func (a *app) inferV2(body []byte) (prediction []float64, out any, err error) {
	var r inferRequest
	if err := decode(json.NewDecoder(bytes.NewReader(body)), &r, inferExample); err != nil {
		return nil, nil, err
	}
	if len(r.Inputs) != 1 {
		return nil, nil, fmt.Errorf("there are %d inputs: want one tensor with all instances", len(r.Inputs))
	}
	in := r.Inputs[0]
	if in.Datatype != "FP64" && in.Datatype != "FP32" {
		return nil, nil, fmt.Errorf("the input's datatype is %q: want FP64 or FP32", in.Datatype)
	}
	width := len(a.trained.Features)
	if len(in.Shape) != 2 || in.Shape[0] < 1 || in.Shape[1] != width {
		return nil, nil, fmt.Errorf("the input's shape is %v: want [n %d], n being how many instances there are", in.Shape, width)
	}
	instances, err := readTensor(in.Data, in.Shape[0], width)
	if err != nil {
		return nil, nil, err
	}
	classes, probabilities, err := a.trained.predict(instances, a.driftPercent)
	if err != nil {
		return nil, nil, err
	}

	outputs := a.metadata().Outputs
	outputs[0].Data, outputs[1].Data = classes, slices.Concat(probabilities...)
	answer := inferResponse{ModelName: a.trained.Name, ID: r.ID}
	for i := range outputs {
		outputs[i].Shape[0] = len(instances)
	}
	for _, wanted := range r.Outputs {
		i := slices.IndexFunc(outputs, func(t tensor) bool { return t.Name == wanted.Name })
		if i < 0 {
			return nil, nil, fmt.Errorf("there is no output %q: want %s or %s", wanted.Name, outputs[0].Name, outputs[1].Name)
		}
		answer.Outputs = append(answer.Outputs, outputs[i])
	}
	if len(r.Outputs) == 0 {
		answer.Outputs = outputs
	}
	return classes, answer, nil
}

// readTensor reads n instances of width numbers, nested or one after the other.
func readTensor(data []byte, n, width int) ([]instance, error) {
	var rows []instance
	var flat numbers
	if err := json.Unmarshal(data, &flat); err == nil {
		for row := range slices.Chunk(flat, width) {
			rows = append(rows, instance(row))
		}
	} else {
		var nested []numbers
		if err := json.Unmarshal(data, &nested); err != nil {
			return nil, errors.New("the input's data is neither a list of numbers nor a list of such lists")
		}
		for _, row := range nested {
			rows = append(rows, instance(row))
		}
	}
	if len(rows) != n || slices.ContainsFunc(rows, func(row instance) bool { return len(row) != width }) {
		return nil, fmt.Errorf("the input's data is not %d times %d numbers, as its shape says", n, width)
	}
	return rows, nil
}
