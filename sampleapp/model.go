package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"slices"
)

// input is a model input: each instance is a number or a list of numbers.
type input struct {
	Instances []instance `json:"instances"`
}

type instance []float64

// UnmarshalJSON takes a number as a list of one.
func (in *instance) UnmarshalJSON(data []byte) error {
	if !bytes.HasPrefix(data, []byte("[")) {
		data = slices.Concat([]byte("["), data, []byte("]"))
	}
	return json.Unmarshal(data, (*numbers)(in))
}

// numbers is a list without null, which encoding/json would take as 0.
type numbers []float64

func (list *numbers) UnmarshalJSON(data []byte) error {
	var read []*float64
	if err := json.Unmarshal(data, &read); err != nil {
		return err
	}
	*list = make(numbers, len(read))
	for i, x := range read {
		if x == nil {
			return errors.New("null is no number")
		}
		(*list)[i] = *x
	}
	return nil
}

// output is the answer to a model input: one number for each instance, in their order.
type output struct {
	Target     string    `json:"target"`
	Prediction []float64 `json:"prediction"`
}

// predict is the model: 0.5 + x1/1 + x2/2 + x3/3 + … for each instance, and 1 more where this version drifts. Without
// drift it is fixed, so two versions of the sample differ only in who they say they are, and a mirrored request must
// give the same numbers.
func predict(instances []instance, driftPercent float64) ([]float64, error) {
	out := make([]float64, len(instances))
	for i, in := range instances {
		y := 0.5
		for k, x := range in {
			y += x / float64(k+1)
		}
		if math.IsInf(y, 0) || math.IsNaN(y) {
			return nil, fmt.Errorf("instance %d is too large", i)
		}
		if drifts(in, driftPercent) {
			y++
		}
		out[i] = y
	}
	return out, nil
}

// drifts picks percent of all inputs, by the input alone: the same input always gets the same answer.
func drifts(in instance, percent float64) bool {
	h := fnv.New64a()
	_ = binary.Write(h, binary.BigEndian, []float64(in)) // a hash refuses nothing
	return float64(h.Sum64()%1_000_000) < percent*10_000
}

// readInput reads one JSON object with at least one instance.
func readInput(body []byte) ([]instance, error) {
	var in input
	if err := decode(json.NewDecoder(bytes.NewReader(body)), &in, `{"instances": [[1, 2], [3, 4]]}`); err != nil {
		return nil, err
	}
	if len(in.Instances) == 0 {
		return nil, errors.New(`want at least one of "instances"`)
	}
	return in.Instances, nil
}

// decode reads one JSON object, such as the example, and nothing after it.
func decode(d *json.Decoder, v any, example string) error {
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("want JSON like %s: %w", example, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("want one JSON object and nothing after it")
	}
	return nil
}
