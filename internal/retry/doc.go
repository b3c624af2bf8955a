// Package retry has the rules by which a request is sent again, and the budget that
// keeps retries from multiplying the load on what is failing.
//
// It knows attempts and how they ended, and nothing of how they were made. It imports
// nothing of this project.
package retry
