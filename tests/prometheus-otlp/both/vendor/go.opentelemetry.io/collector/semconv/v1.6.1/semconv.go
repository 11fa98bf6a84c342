// Package semconv has the three names of the conventions that are used here. The collector's own is gone since before 0.152.
package semconv

const (
	AttributeServiceName       = "service.name"
	AttributeServiceNamespace  = "service.namespace"
	AttributeServiceInstanceID = "service.instance.id"
)
