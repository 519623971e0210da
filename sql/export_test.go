package sql

import "io/fs"

// MigrationLock is the advisory lock of Migrate.
const MigrationLock = migrationLock

// RiverVersion is an entry of riverVersions.
type RiverVersion struct {
	Migration, River int
	Hash             string
}

// RiverVersions is riverVersions.
func RiverVersions() (all []RiverVersion) {
	for _, v := range riverVersions {
		all = append(all, RiverVersion{v.migration, v.river, v.hash})
	}
	return all
}

// Checks are the files of Check and Overdue.
func Checks() fs.ReadDirFS { return ruleFiles }

// Repairs are the files of Repair.
func Repairs() fs.ReadDirFS { return repairFiles }
