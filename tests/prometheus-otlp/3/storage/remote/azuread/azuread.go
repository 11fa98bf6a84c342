// Package azuread stands where remote write to others gets its rights from Azure. There is none.
package azuread

import (
	"errors"
	"net/http"
)

var errLeftOut = errors.New("built without authentication by Azure AD")

// AzureADConfig takes nothing.
type AzureADConfig struct{}

// Validate says that there is none.
func (*AzureADConfig) Validate() error { return errLeftOut }

// UnmarshalYAML says that there is none.
func (*AzureADConfig) UnmarshalYAML(func(interface{}) error) error { return errLeftOut }

// NewAzureADRoundTripper says that there is none.
func NewAzureADRoundTripper(*AzureADConfig, http.RoundTripper) (http.RoundTripper, error) {
	return nil, errLeftOut
}
