# Run both overlays in a cluster of kind, each to a finished backfill: `local` as it is, then
# `production`, with the definitions of its custom resources and the stores of `local` as those that
# are elsewhere. It takes Docker, kind and kubectl; `kind delete cluster` removes all of it.
set -eu

KEDA=https://github.com/kedacore/keda/releases/download/v2.17.2/keda-2.17.2-crds.yaml
PROMETHEUS=https://github.com/prometheus-operator/prometheus-operator/releases/download/v0.84.0/stripped-down-crds.yaml
OVERLAYS=deploy/kubernetes/overlays

backfill() { # of the namespace market-spine
  for name in relay api worker worker-backfill beat; do
    kubectl --namespace market-spine rollout status "deployment/$name" --timeout=5m
  done
  kubectl --namespace market-spine exec deployment/api -- spine keys make kind --scope read
  kubectl --namespace market-spine exec deployment/api -- spine run otc_backfill_range \
    --param start_date=2025-11-24 --param end_date=2025-12-05
  kubectl --namespace market-spine exec deployment/api -- spine doctor
}

docker build --tag market-spine:local .
kind get clusters | grep -qx kind || kind create cluster --wait 2m
kind load docker-image market-spine:local

# What an earlier run has left.
kubectl delete namespace market-spine stores --ignore-not-found

kubectl apply --kustomize $OVERLAYS/local
backfill
kubectl delete --kustomize $OVERLAYS/local

kubectl apply --server-side --filename "$KEDA" --filename "$PROMETHEUS"
kubectl wait --for=condition=established crd --all --timeout=1m
kubectl create namespace stores
kubectl --namespace stores apply --filename $OVERLAYS/local/stores.yaml
kubectl apply --filename $OVERLAYS/production/namespace.yaml
kubectl --namespace market-spine create secret generic market-spine \
  --from-literal=DATABASE_URL=postgresql://spine:local@postgres.stores/spine \
  --from-literal=REDIS_URL=redis://redis.stores:6379/0
kubectl kustomize $OVERLAYS/production |
  sed -e 's|image: .*/market-spine:.*|image: market-spine:local|' \
    -e 's|imagePullPolicy: Always|imagePullPolicy: IfNotPresent|' |
  kubectl apply --filename -
kubectl --namespace market-spine wait --for=condition=complete job/migrate --timeout=5m
backfill
