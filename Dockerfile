# The command pgsagaz, and nothing else: no shell, no libc, no user but 1000.
#
#   docker build --tag pgsagaz/pgsagaz:dev --build-arg VERSION="$(git describe --tags --always)" --build-arg COMMIT="$(git rev-parse HEAD)" .
#
# It runs with a read-only root and without capabilities. For a program of yours, name its main package as MAIN.
ARG BUILDER=golang:1.26.8-bookworm

FROM ${BUILDER} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG MAIN=./cmd/pgsagaz
ARG VERSION=
ARG COMMIT=
# timetzdata: there is no time zone database in the image.
RUN CGO_ENABLED=0 go build -trimpath -tags timetzdata -o /pgsagaz \
      -ldflags "-s -w -X github.com/pgsagaz/pgsagaz/cmd/pgsagaz/cli.stampedVersion=${VERSION} -X github.com/pgsagaz/pgsagaz/cmd/pgsagaz/cli.stampedCommit=${COMMIT}" \
      "${MAIN}"

FROM scratch
ARG VERSION=
ARG COMMIT=
LABEL org.opencontainers.image.title="pgsagaz" \
      org.opencontainers.image.description="Sagas on Postgres" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /pgsagaz /pgsagaz
USER 1000:1000
STOPSIGNAL SIGTERM
ENTRYPOINT ["/pgsagaz"]
CMD ["worker"]
