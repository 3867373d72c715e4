package images

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/encoding/protowire"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/yaml"

	"mllab.local/manifests"
)

// etcdDir is the folder of a lab's etcd (manifests/kind/cluster.yaml), on the node's volume. In the node image it has what
// every lab's API server would first check and store, for seconds: Kubernetes' own roles, without which the scheduler and the
// controllers are refused, and the core's CRDs. The etcd of a plain cluster has another folder, and nothing of this.
const etcdDir = "/var/lib/mllab/etcd"

// stored are the files of manifests/upstream with the roles and the CRDs. Of the others' objects, up creates its own.
var stored = []string{"roles.yaml", "gateway-api.yaml", "istio.yaml", "knative.yaml"}

// storedTexts returns the contents of stored.
func storedTexts() ([]string, error) {
	var texts []string
	for _, name := range stored {
		text, err := manifests.Upstream(name)
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(text))
	}
	return texts, nil
}

// etcdFiles returns the files of etcdDir. It writes those that are large into dir.
func etcdFiles(dir string) (tree, error) {
	file := filepath.Join(dir, "etcd.db")
	if err := WriteEtcd(file); err != nil {
		return nil, fmt.Errorf("what etcd has from the start: %w", err)
	}
	files := tree{path.Join(etcdDir, "member/snap/db"): {mode: 0o600, from: file}}
	for _, d := range []string{"", "member", "member/snap"} { // etcd warns of folders that others can read
		files[path.Join(etcdDir, d)] = node{mode: 0o700, dir: true}
	}
	return files, nil
}

// WriteEtcd writes the database with which a lab's etcd starts, in the folder member/snap. Its objects are as the API server
// has them when mllab has applied them, so it changes none of them.
//
// The database is bbolt's. Its bucket "key" has each revision of a key: https://etcd.io/docs/v3.6/learning/data_model/
func WriteEtcd(file string) error {
	texts, err := storedTexts()
	if err != nil {
		return err
	}
	// The page size is Linux's usual one, and not this machine's.
	db, err := bolt.Open(file, 0o600, &bolt.Options{PageSize: 4096})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		bucket, err := tx.CreateBucket([]byte("key"))
		if err != nil {
			return err
		}
		revision := uint64(1) // of an empty etcd
		for _, text := range texts {
			err := eachObject(text, func(o *unstructured.Unstructured) error {
				key, value, err := storedObject(o)
				if err != nil || key == "" {
					return err
				}
				revision++
				id := append(binary.BigEndian.AppendUint64(nil, revision), "_\x00\x00\x00\x00\x00\x00\x00\x00"...)
				return bucket.Put(id, keyValue(key, value, revision))
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, db.Close())
}

// eachObject calls f for every object of a text, also for those in a list.
func eachObject(text string, f func(*unstructured.Unstructured) error) error {
	docs := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var o unstructured.Unstructured
		err := docs.Decode(&o)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err == nil && o.IsList():
			err = o.EachListItem(func(item runtime.Object) error { return f(item.(*unstructured.Unstructured)) })
		case err == nil:
			err = f(&o)
		}
		if err != nil {
			return err
		}
	}
}

// keyValue encodes etcd's message KeyValue of a key's first revision:
// https://github.com/etcd-io/etcd/blob/main/api/mvccpb/kv.proto
func keyValue(key string, value []byte, revision uint64) []byte {
	const keyField, created, modified, version, valueField = 1, 2, 3, 4, 5
	m := protowire.AppendString(protowire.AppendTag(nil, keyField, protowire.BytesType), key)
	m = protowire.AppendVarint(protowire.AppendTag(m, created, protowire.VarintType), revision)
	m = protowire.AppendVarint(protowire.AppendTag(m, modified, protowire.VarintType), revision)
	m = protowire.AppendVarint(protowire.AppendTag(m, version, protowire.VarintType), 1)
	return protowire.AppendBytes(protowire.AppendTag(m, valueField, protowire.BytesType), value)
}

// storedObject returns the key and the value of an object in etcd; no key for what up applies itself.
func storedObject(o *unstructured.Unstructured) (key string, value []byte, err error) {
	switch _, own := o.GetLabels()["kubernetes.io/bootstrapping"]; { // as upstream's roles
	case own:
		o.SetUID(uuid.NewUUID())
		o.SetCreationTimestamp(metav1.Now())
		value, err = json.Marshal(o)
		return path.Join("/registry", strings.ToLower(o.GetKind())+"s", o.GetNamespace(), o.GetName()), value, err
	case o.GetKind() == "CustomResourceDefinition":
		value, err = storedCRD(o)
		return path.Join("/registry/apiextensions.k8s.io/customresourcedefinitions", o.GetName()), value, err
	}
	return "", nil, nil
}

// storedCRD returns a CRD as it is when mllab has applied it and its names are accepted.
func storedCRD(o *unstructured.Unstructured) ([]byte, error) {
	applied, err := o.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := json.Unmarshal(applied, &crd); err != nil {
		return nil, err
	}
	owned := map[string]any{"spec": o.Object["spec"], "metadata": map[string]any{}}
	for _, name := range []string{"annotations", "labels"} {
		if v, ok := o.Object["metadata"].(map[string]any)[name]; ok {
			owned["metadata"].(map[string]any)[name] = v
		}
	}
	fields, err := json.Marshal(ownedFields(owned))
	if err != nil {
		return nil, err
	}
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
	crd.UID, crd.CreationTimestamp, crd.Generation = uuid.NewUUID(), now, 1
	crd.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager: "mllab", Operation: metav1.ManagedFieldsOperationApply, APIVersion: o.GetAPIVersion(), Time: &now,
		FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: fields},
	}}
	condition := func(kind apiextensionsv1.CustomResourceDefinitionConditionType, reason, message string) {
		crd.Status.Conditions = append(crd.Status.Conditions, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: kind, Status: apiextensionsv1.ConditionTrue, LastTransitionTime: now, Reason: reason, Message: message,
		})
	}
	crd.Status = apiextensionsv1.CustomResourceDefinitionStatus{AcceptedNames: crd.Spec.Names}
	if link := crd.Annotations[apiextensionsv1.KubeAPIApprovedAnnotation]; link != "" {
		condition(apiextensionsv1.KubernetesAPIApprovalPolicyConformant, "ApprovedAnnotation", "approved in "+link)
	}
	condition(apiextensionsv1.NamesAccepted, "NoConflicts", "no conflicts found")
	condition(apiextensionsv1.Established, "InitialNamesAccepted", "the initial names have been accepted")
	for _, v := range crd.Spec.Versions {
		if v.Storage {
			crd.Status.StoredVersions = []string{v.Name}
		}
	}
	return json.Marshal(crd)
}

// ownedFields returns the managed fields of whoever applies v, in whose kind each list is owned as a whole.
// https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
func ownedFields(v any) map[string]any {
	fields := map[string]any{}
	if m, is := v.(map[string]any); is {
		for name, below := range m {
			fields["f:"+name] = ownedFields(below)
		}
	}
	return fields
}
