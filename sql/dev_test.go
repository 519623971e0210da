package sql
import ("testing";"context";"github.com/jackc/pgx/v5";"github.com/jackc/pgx/v5/pgxpool")
func TestDevMigrate(t *testing.T){
 c,_:=pgx.ParseConfig("postgres://postgres@127.0.0.1:5499/postgres?sslmode=disable")
 ctx:=context.Background()
 if err:=Migrate(ctx,c,nil);err!=nil{t.Fatal(err)}
 if err:=Migrate(ctx,c,&MigrateOptions{Steps:-Version()});err!=nil{t.Log("down",err)}
 st,err:=func()(SchemaStatus,error){cc,_:=pgx.ConnectConfig(ctx,c);return Status(ctx,cc)}()
 t.Log(st,err)
 if err:=Migrate(ctx,c,&MigrateOptions{Steps:-13});err!=nil{t.Log("down",err)}
 st,err=func()(SchemaStatus,error){cc,_:=pgx.ConnectConfig(ctx,c);return Status(ctx,cc)}()
 t.Log(st,err)
 if err:=Migrate(ctx,c,nil);err!=nil{t.Fatal(err)}
 p,_:=pgxpool.New(ctx,"postgres://postgres@127.0.0.1:5499/postgres?sslmode=disable")
 v,err:=Check(ctx,p); t.Log(v,err)
 e,_:=checkFiles.ReadDir("queries"); _=e
}
