package images

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"strings"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"

	"mllab.local/manifests"
)

// etcdDir is the folder of a lab's etcd (manifests/kind/cluster.yaml), on the node's volume. In the node image it has what
// every lab's API server would first check and store, for seconds: Kubernetes' own roles, without which the scheduler and the
// controllers are refused, and the core's CRDs. The etcd of a plain cluster has another folder, and nothing of this.
const etcdDir = "/var/lib/mllab/etcd"

// stored are the files of manifests/upstream whose roles and CRDs etcd has from the start.
var stored = []string{"roles.yaml", "gateway-api.yaml", "istio.yaml", "knative.yaml"}

// storedTexts returns the documents of stored with lists of roles, or with a CRD: each is a line of JSON.
func storedTexts() ([]string, error) {
	var texts []string
	for _, name := range stored {
		file, err := manifests.Upstream(name)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(file)) {
			if strings.Contains(line, `"kind":"CustomResourceDefinition"`) || strings.Contains(line, `"kind":"List"`) {
				texts = append(texts, line)
			}
		}
	}
	return texts, nil
}

// etcdFiles returns the files of etcdDir. It writes the database into dir.
func etcdFiles(dir string) (tree, error) {
	file := filepath.Join(dir, "etcd.db")
	if err := WriteEtcd(file); err != nil {
		return nil, fmt.Errorf("writing etcd's database: %w", err)
	}
	files := tree{path.Join(etcdDir, "member/snap/db"): {mode: 0o600, from: file}}
	for _, d := range []string{"", "member", "member/snap"} { // etcd warns of folders that others can read
		files[path.Join(etcdDir, d)] = node{mode: 0o700, dir: true}
	}
	return files, nil
}

// WriteEtcd writes the database with which a lab's etcd starts, in the folder member/snap. Its objects are as the API server
// has stored them when mllab has applied the CRDs, so that it changes none of them.
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
		return eachStored(texts, func(key string, object any) error {
			value, err := json.Marshal(object)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			revision++
			id := append(binary.BigEndian.AppendUint64(nil, revision), "_\x00\x00\x00\x00\x00\x00\x00\x00"...)
			return bucket.Put(id, keyValue(key, value, revision))
		})
	})
	return errors.Join(err, db.Close())
}

// eachStored calls f with the key and the value of each object in texts, and of the accounts of Kubernetes' controllers. The
// controller manager would create these one after the other before its first controller works.
// https://github.com/kubernetes/kubernetes/blob/v1.36.0/staging/src/k8s.io/controller-manager/pkg/clientbuilder/client_builder_dynamic.go
func eachStored(texts []string, f func(key string, object any) error) error {
	for _, text := range texts {
		var o unstructured.Unstructured
		if err := o.UnmarshalJSON([]byte(text)); err != nil {
			return err
		}
		if !o.IsList() {
			crd, err := storedCRD(text, &o)
			if err != nil {
				return fmt.Errorf("%s: %w", o.GetName(), err)
			}
			if err := f("/registry/apiextensions.k8s.io/customresourcedefinitions/"+o.GetName(), crd); err != nil {
				return err
			}
			continue
		}
		err := o.EachListItem(func(item runtime.Object) error {
			role := item.(*unstructured.Unstructured)
			if strings.HasPrefix(role.GetName(), "system:controller:") && role.GetKind() == "ClusterRoleBinding" {
				subject := role.Object["subjects"].([]any)[0].(map[string]any) // it has no other
				account := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": subject["kind"]}}
				account.SetName(subject["name"].(string))
				account.SetNamespace(subject["namespace"].(string))
				if err := f(path.Join("/registry/serviceaccounts", account.GetNamespace(), account.GetName()), created(account)); err != nil {
					return err
				}
			}
			return f(path.Join("/registry", strings.ToLower(role.GetKind())+"s", role.GetNamespace(), role.GetName()), created(role))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// created returns an object as it is when it is created now.
func created(o *unstructured.Unstructured) *unstructured.Unstructured {
	o.SetUID(uuid.NewUUID())
	o.SetCreationTimestamp(metav1.Now())
	return o
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

// storedCRD returns a CRD, whose text and object are given, as it is when mllab has applied it and its names are accepted.
func storedCRD(text string, o *unstructured.Unstructured) (*apiextensionsv1.CustomResourceDefinition, error) {
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := json.Unmarshal([]byte(text), crd); err != nil {
		return nil, err
	}
	metadata := maps.Clone(o.Object["metadata"].(map[string]any))
	delete(metadata, "name") // identity, which nobody owns
	delete(metadata, "creationTimestamp")
	fields, err := json.Marshal(ownedFields(map[string]any{"metadata": metadata, "spec": o.Object["spec"]}))
	if err != nil {
		return nil, err
	}
	now := metav1.Now()
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
	crd.UID, crd.CreationTimestamp, crd.Generation = uuid.NewUUID(), now, 1
	crd.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager: "mllab", Operation: metav1.ManagedFieldsOperationApply, APIVersion: o.GetAPIVersion(), Time: &now,
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(string(fields)),
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
	version, err := apihelpers.GetCRDStorageVersion(crd)
	crd.Status.StoredVersions = []string{version}
	return crd, err
}

// ownedFields returns the managed fields of a manager that applies v, in which every list is atomic.
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
