// Package deploy holds tests of what pgsagaz is deployed with: the manifests of k8s/ and docker-compose.yml. It is a module of its
// own, so that nobody who uses pgsagaz gets the types of Kubernetes with it:
//
//	cd integration/deploy && go test ./...
//
// With an API server that .ci/kube-apiserver.sh has built and started, the manifests are applied to it, too.
package deploy
